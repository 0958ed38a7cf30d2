// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

var temperature = metric{
	func(c *metadata.MetricsConfig) bool { return c.HwTemperature.Enabled },
	func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
		mb.RecordHwTemperatureDataPoint(ts, s.float, c.id, c.name, metadata.AttributeHwSensorLocation(s.attribute))
	},
}

// hottest is beyond what any GPU reports in °C; more is no reading.
const hottest = 250

func temperatureFamilies() []family {
	return []family{
		{
			name: "temperature", needs: "nvmlDeviceGetTemperature", metrics: []metric{temperature},
			read: func(d nvml.Device, out *sheet) error {
				t, err := d.Temperature()
				if err == nil && t <= hottest {
					out.float(0, int(metadata.AttributeHwSensorLocationGpu), float64(t))
				}
				return err
			},
		},
		{
			name: "temperature.memory", needs: "nvmlDeviceGetFieldValues", metrics: []metric{temperature},
			read: func(d nvml.Device, out *sheet) error {
				v, err := out.fieldValues(d, nvml.FieldMemoryTemperature)
				if err == nil {
					err = nvml.FieldError(&v[0])
				}
				if err != nil {
					return err
				}
				if t := nvml.FieldNumber(&v[0]); t > 0 && t <= hottest { // 0 is what GPUs without the sensor say
					out.float(0, int(metadata.AttributeHwSensorLocationMemory), t)
				}
				return nil
			},
		},
		{
			name: "temperature.margin", needs: "nvmlDeviceGetMarginTemperature",
			metrics: []metric{{
				func(c *metadata.MetricsConfig) bool { return c.HwGpuTemperatureMargin.Enabled },
				func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
					mb.RecordHwGpuTemperatureMarginDataPoint(ts, s.float, c.id, c.name)
				},
			}},
			read: func(d nvml.Device, out *sheet) error {
				t, err := d.MarginTemperature()
				if err == nil && t >= -hottest && t <= hottest {
					out.float(0, 0, float64(t))
				}
				return err
			},
		},
		temperatureLimit("temperature.limit.shutdown", nvml.TemperatureShutdown, metadata.AttributeHwLimitTypeHighCritical),
		temperatureLimit("temperature.limit.slowdown", nvml.TemperatureSlowdown, metadata.AttributeHwLimitTypeHighDegraded),
		temperatureLimit("temperature.limit.max", nvml.TemperatureGPUMax, metadata.AttributeHwLimitTypeMax),
		temperatureLimit("temperature.limit.memory_max", nvml.TemperatureMemoryMax, metadata.AttributeHwLimitTypeMemoryMax),
	}
}

func temperatureLimit(name string, which nvml.TemperatureLimitType, limit metadata.AttributeHwLimitType) family {
	return family{
		name: name, needs: "nvmlDeviceGetTemperatureThreshold",
		metrics: []metric{{
			func(c *metadata.MetricsConfig) bool { return c.HwTemperatureLimit.Enabled },
			func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
				mb.RecordHwTemperatureLimitDataPoint(ts, s.float, c.id, metadata.AttributeHwLimitType(s.attribute), c.name)
			},
		}},
		read: func(d nvml.Device, out *sheet) error {
			t, err := d.TemperatureLimit(which)
			if err == nil && t > 0 && t <= hottest {
				out.float(0, int(limit), float64(t))
			}
			return err
		},
	}
}
