// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
)

// The numbers of nvml.h by which the test library holds the throttle counters, and those of
// power smoothing from the first to the last, some of which drivers of another generation
// have at the counters' numbers.
const (
	powerCapField, thermalField, syncBoostField     = 74, 75, 76
	swThermalField, hwThermalField, powerBrakeField = 269, 270, 271
	firstSmoothingField, lastSmoothingField         = 251, 268
)

func throttleSeconds(m pmetric.Metrics) map[string]float64 {
	seconds := map[string]float64{}
	eachPoint(m, func(p pmetric.NumberDataPoint) {
		if reason, ok := p.Attributes().Get("hw.gpu.throttle.reason"); ok && p.ValueType() == pmetric.NumberDataPointValueTypeDouble && !p.Flags().NoRecordedValue() {
			seconds[reason.Str()] = p.DoubleValue()
		}
	})
	return seconds
}

// TestThrottleTimesAreReadByTheNumbersOfTheDriver has a Blackwell GPU, whose power smoothing
// answers where another generation of drivers has its throttle counters.
func TestThrottleTimesAreReadByTheNumbersOfTheDriver(t *testing.T) {
	for _, c := range []struct {
		driver string
		want   map[string]float64
	}{
		{"535.288.01", map[string]float64{"sw_power_cap": 1, "sync_boost": 2, "sw_thermal": 3}},
		{"570.211.01", map[string]float64{"sw_power_cap": 1, "sync_boost": 2, "sw_thermal": 3}},
		{"575.64.05", map[string]float64{"sw_power_cap": 1, "sync_boost": 2, "sw_thermal": 4, "hw_thermal": 5, "hw_power_brake": 6}},
		{"580.126.09", map[string]float64{"sw_power_cap": 1, "sync_boost": 2, "sw_thermal": 4, "hw_thermal": 5, "hw_power_brake": 6}},
		{"590.48.01", map[string]float64{"sw_power_cap": 1, "sync_boost": 2, "sw_thermal": 4, "hw_thermal": 5, "hw_power_brake": 6}},
		{"610.57.04", map[string]float64{"sw_power_cap": 1, "sync_boost": 2, "sw_thermal": 4, "hw_thermal": 5, "hw_power_brake": 6}},
	} {
		t.Run(c.driver, func(t *testing.T) {
			machine, gpus := library.Machine(t, "b200")
			machine.SetDriver(c.driver, "13."+c.driver, 13000)
			for field, seconds := range map[int]int64{powerCapField: 1, syncBoostField: 2, thermalField: 3, swThermalField: 4, hwThermalField: 5, powerBrakeField: 6} {
				gpus[0].SetField(field, seconds*1e9, fakenvml.TypeUnsignedLL, fakenvml.Success)
			}
			// Even where the type is that of a counter, only the version decides.
			for field := firstSmoothingField; field <= lastSmoothingField; field++ {
				gpus[0].SetField(field, int64(field)*1e9, fakenvml.TypeUnsignedLL, fakenvml.Success)
			}
			r := newRig(t, nvml.NewSessions(fast), nil).ready(1)
			assert.Equal(t, c.want, throttleSeconds(r.scrapeNow()))
		})
	}
}

func TestWithoutTheFieldTheOlderFunctionAnswers(t *testing.T) {
	machine, gpus := library.Machine(t, "l40s")
	machine.SetDriver("470.256.02", "11.470.256.02", 11040)
	for _, field := range []int{powerCapField, thermalField, syncBoostField} {
		gpus[0].SetField(field, 7e9, fakenvml.TypeUnsignedLL, fakenvml.Success)
	}
	gpus[0].SetReturn("nvmlDeviceGetFieldValues", fakenvml.NotSupported)
	r := newRig(t, nvml.NewSessions(fast), nil).ready(1)
	assert.Equal(t, map[string]float64{"sw_power_cap": 7, "sync_boost": 7, "sw_thermal": 7}, throttleSeconds(r.scrapeNow()))
}

func TestWhatIsNoCounterIsNotRecordedAsThrottleTime(t *testing.T) {
	_, gpus := library.Machine(t, "l40s")
	r := newRig(t, nvml.NewSessions(fast), nil).ready(1)
	set := func(v, kind int64) {
		gpus[0].SetField(hwThermalField, v, kind, fakenvml.Success)
	}
	read := func() bool {
		_, ok := throttleSeconds(r.scrapeNow())["hw_thermal"]
		return ok
	}
	set(5e9, fakenvml.TypeUnsignedInt)
	assert.False(t, read(), "a number of 32 bits")
	set(5e9, fakenvml.TypeUnsignedLL)
	require.True(t, read())
	set(1e9, fakenvml.TypeUnsignedLL)
	assert.False(t, read(), "it went back")
	assert.True(t, read(), "and counts on: the GPU was reset")
	for range 2 { // what goes back again and again is a level
		set(5e9, fakenvml.TypeUnsignedLL)
		read()
		set(1e9, fakenvml.TypeUnsignedLL)
		read()
	}
	set(6e9, fakenvml.TypeUnsignedLL)
	assert.False(t, read())
}
