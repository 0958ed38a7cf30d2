// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package table

import (
	"strconv"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
)

var (
	fanSpeedRatio = newWithText(level, "hw.fan.speed_ratio",
		func(mb *builder, ts timestamp, v float64, fan string, _ noAttribute, id, _ string) {
			mb.RecordHwFanSpeedRatioDataPoint(ts, v, id, fan)
		})
	fanSpeed = newWithText(level, "hw.fan.speed", func(mb *builder, ts timestamp, v float64, fan string, _ noAttribute, id, _ string) {
		mb.RecordHwFanSpeedDataPoint(ts, v, id, fan)
	})
)

const (
	// maxFans bounds what is asked if the count is not a valid one.
	maxFans = 16
	// maxFanRPM is beyond the speed of any fan: more is not a valid reading.
	maxFanRPM = 100_000
	// maxFanPercent is more than 100, since overdriven fans report it.
	maxFanPercent = 200
)

func fanRows() []Row {
	return []Row{
		{
			Name: "fans", metrics: []*Metric{fanSpeedRatio.Metric},
			read: func(d nvml.Device, out *Output) error {
				count, err := d.FanCount()
				if nvml.IsUnsupported(err) {
					count, err = 1, nil // before driver 510: asking for fan 0 shows whether there is one
				}
				if err != nil {
					return err
				}
				if count == 0 {
					return nvml.ErrNotSupported("nvmlDeviceGetNumFans")
				}
				for fan := range min(count, maxFans) {
					percent, err := d.FanSpeed(fan)
					if err != nil {
						return err
					}
					out.putIf(percent <= maxFanPercent, fanSpeedRatio.Of(float64(percent)/100, out.fan(fan), 0))
				}
				return nil
			},
		},
		{
			Name: "fans.rpm", metrics: []*Metric{fanSpeed.Metric},
			read: func(d nvml.Device, out *Output) error {
				rpm, err := d.FanRPM()
				if nvml.IsInvalid(err) {
					return nvml.ErrNotSupported("nvmlDeviceGetFanSpeedRPM") // no fan
				}
				out.putIf(err == nil && rpm <= maxFanRPM, fanSpeed.Of(float64(rpm), out.fan(0), 0))
				return err
			},
		},
	}
}

// fan returns a fan's hw.name, which is made once.
func (o *Output) fan(i int) string {
	if o.fansOf != o.Name {
		o.fans, o.fansOf = nil, o.Name
	}
	for len(o.fans) <= i {
		o.fans = append(o.fans, o.Name+"/fan"+strconv.Itoa(len(o.fans)))
	}
	return o.fans[i]
}
