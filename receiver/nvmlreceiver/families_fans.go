// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"strconv"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

// mostFans bounds what is asked if a GPU makes the count up.
const mostFans = 16

func fanFamilies() []family {
	return []family{{
		name: "fans", needs: "nvmlDeviceGetFanSpeed_v2",
		metrics: []metric{{
			func(c *metadata.MetricsConfig) bool { return c.HwFanSpeedRatio.Enabled },
			func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
				mb.RecordHwFanSpeedRatioDataPoint(ts, s.float, c.id, s.text)
			},
		}},
		read: func(d nvml.Device, out *sheet) error {
			count, err := d.FanCount()
			switch nvml.KindOf(err) {
			case nvml.Missing, nvml.NotSupported:
				count, err = 1, nil // drivers before 510 do not count them; fan 0 says whether it is there
			}
			if err != nil {
				return err
			}
			for fan := range min(count, mostFans) {
				percent, err := d.FanSpeed(fan)
				if err != nil {
					return err
				}
				if percent <= 200 { // overdriven fans report more than 100
					out.samples = append(out.samples, sample{
						series: series{metric: &out.row.metrics[0], text: out.names.fan(fan)},
						float:  float64(percent) / 100,
					})
				}
			}
			return nil
		},
	}, {
		name: "fans.rpm", needs: "nvmlDeviceGetFanSpeedRPM",
		metrics: []metric{{
			func(c *metadata.MetricsConfig) bool { return c.HwFanSpeed.Enabled },
			func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
				mb.RecordHwFanSpeedDataPoint(ts, s.float, c.id, s.text)
			},
		}},
		read: func(d nvml.Device, out *sheet) error {
			rpm, err := d.FanRPM()
			if nvml.IsInvalid(err) {
				return nvml.ErrNotSupported("nvmlDeviceGetFanSpeedRPM") // no fan
			}
			if err == nil && rpm <= fastestFan {
				out.samples = append(out.samples, sample{
					series: series{metric: &out.row.metrics[0], text: out.names.fan(0)},
					float:  float64(rpm),
				})
			}
			return err
		},
	}}
}

// fastestFan is beyond what any fan turns, in revolutions per minute.
const fastestFan = 100_000

// fan is the fan's name on its points. It is kept, since it is asked for at every scrape.
func (n *names) fan(i int) string {
	for len(n.fans) <= i {
		n.fans = append(n.fans, n.name+"/fan"+strconv.Itoa(len(n.fans)))
	}
	return n.fans[i]
}
