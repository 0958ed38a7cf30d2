// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package main

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
)

// timing is the duration of one call, in microseconds over some calls.
type timing struct {
	Call     string  `json:"call"`
	MedianUS float64 `json:"median_us"`
	MaxUS    float64 `json:"max_us"`
	Error    string  `json:"error,omitempty"`
}

const callsEach = 20

// timeCalls makes every call of the session package on every GPU.
func (r *report) timeCalls(library string) error {
	sessions := nvml.NewSessions(nvml.Timing{})
	session, err := sessions.Acquire(library, zap.NewNop())
	if err != nil {
		return err
	}
	defer sessions.Release(context.Background())
	select {
	case <-session.Inspected():
	case <-time.After(20 * time.Second):
		return errors.New("the driver did not respond within 20s")
	}
	for _, c := range session.Snapshot().GPUs {
		i := c.Identity().Index
		if i >= len(r.GPUs) {
			continue
		}
		g := &r.GPUs[i]
		done := make(chan struct{})
		c.Submit(func() {
			defer close(done)
			g.Calls, g.Fields = timeDevice(c.Device()), timeFields(c.Device())
		})
		select {
		case <-done:
		case <-time.After(2 * time.Minute):
			return errors.New("a call in the driver did not return within 2m")
		}
	}
	return nil
}

// fieldTiming is what the driver says that one field value took (nvmlFieldValue_t.latencyUsec),
// in microseconds over some calls.
type fieldTiming struct {
	Field    uint32 `json:"field"`
	MedianUS int64  `json:"median_us"`
	MaxUS    int64  `json:"max_us"`
	Error    string `json:"error,omitempty"`
}

// timeFields asks for the field values that the receivers read, all in one call as they do.
func timeFields(d nvml.Device) []fieldTiming {
	throttle := d.ThrottleFields()
	ids := []uint32{
		nvml.FieldEnergy, nvml.FieldPowerInstant, nvml.FieldPowerAverage, nvml.FieldMemoryTemperature,
		nvml.FieldThrottlePowerCap, nvml.FieldThrottleSyncBoost, throttle.SwThermal, throttle.HwThermal, throttle.PowerBrake,
		nvml.FieldPCIeTx, nvml.FieldPCIeRx, nvml.FieldRemapPending, nvml.FieldRecoveryAction,
	}
	ids = slices.DeleteFunc(ids, func(id uint32) bool { return id == 0 })
	all := make([]fieldTiming, len(ids))
	times := make([][]int64, len(ids))
	values := make([]nvml.FieldValue, len(ids))
	for range callsEach {
		for i, id := range ids {
			values[i] = nvml.FieldValue{FieldId: id}
		}
		err := d.FieldValues(values)
		for i := range values {
			v := &values[i]
			fieldErr := err
			if fieldErr == nil {
				_, fieldErr = nvml.FieldNumber(v)
			}
			all[i].Field = ids[i]
			if fieldErr != nil {
				all[i].Error = fieldErr.Error()
			}
			times[i] = append(times[i], v.LatencyUsec)
		}
	}
	for i, t := range times {
		slices.Sort(t)
		all[i].MedianUS, all[i].MaxUS = t[len(t)/2], t[len(t)-1]
	}
	return all
}

func timeDevice(d nvml.Device) []timing {
	v := reflect.ValueOf(d)
	all := make([]timing, 0, v.NumMethod())
	for i := range v.NumMethod() {
		method := v.Method(i)
		arguments := make([]reflect.Value, method.Type().NumIn())
		for j := range arguments {
			arguments[j] = reflect.Zero(method.Type().In(j))
			if method.Type().In(j) == reflect.TypeFor[[]nvml.FieldValue]() {
				arguments[j] = reflect.ValueOf([]nvml.FieldValue{
					{FieldId: nvml.FieldPowerInstant}, {FieldId: nvml.FieldPowerAverage}, {FieldId: nvml.FieldMemoryTemperature},
				})
			}
		}
		t := timing{Call: v.Type().Method(i).Name}
		times := make([]float64, 0, callsEach)
		for range callsEach {
			begin := time.Now()
			results := method.Call(arguments)
			times = append(times, float64(time.Since(begin).Nanoseconds())/1000)
			if gpm, ok := results[0].Interface().(*nvml.GPM); ok && gpm != nil {
				gpm.Free()
			}
			if err, _ := results[len(results)-1].Interface().(error); err != nil {
				t.Error = err.Error()
			}
		}
		slices.Sort(times)
		t.MedianUS, t.MaxUS = times[len(times)/2], times[len(times)-1]
		all = append(all, t)
	}
	slices.SortFunc(all, func(a, b timing) int { return int(b.MedianUS - a.MedianUS) })
	return all
}
