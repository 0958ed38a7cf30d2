// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package table

import (
	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

var (
	temperature = newWith1(level, "hw.temperature",
		func(mb *builder, ts timestamp, v float64, at metadata.AttributeHwSensorLocation, id, name string) {
			mb.RecordHwTemperatureDataPoint(ts, v, id, name, at)
		})
	temperatureMargin      = newPlain(level, "hw.gpu.temperature.margin", (*builder).RecordHwGpuTemperatureMarginDataPoint)
	temperatureMarginLimit = newWith1(level, "hw.gpu.temperature.margin.limit",
		func(mb *builder, ts timestamp, v float64, limit metadata.AttributeHwLimitType, id, name string) {
			mb.RecordHwGpuTemperatureMarginLimitDataPoint(ts, v, id, limit, name)
		})
	temperatureLimit = newWith1(level, "hw.temperature.limit",
		func(mb *builder, ts timestamp, v float64, limit metadata.AttributeHwLimitType, id, name string) {
			mb.RecordHwTemperatureLimitDataPoint(ts, v, id, limit, name)
		})
)

// maxTemperatureCelsius is beyond what any GPU reports: more is not a valid reading.
const maxTemperatureCelsius = 250

func temperatureRows() []Row {
	return []Row{
		single("temperature", nvml.Device.Temperature, 0, maxTemperatureCelsius,
			func(t uint32) Sample { return temperature.Of(float64(t), metadata.AttributeHwSensorLocationGpu) }),
		{
			Name: "temperature.memory", metrics: []*Metric{temperature.Metric}, pace: eachPass, fields: []uint32{nvml.FieldMemoryTemperature},
			read: func(d nvml.Device, out *Output) error {
				t, err := out.fieldValue(d, nvml.FieldMemoryTemperature)
				// GPUs without the sensor report 0.
				out.putIf(err == nil && t > 0 && t <= maxTemperatureCelsius, temperature.Of(t, metadata.AttributeHwSensorLocationMemory))
				return err
			},
		},
		single("temperature.margin", nvml.Device.MarginTemperature, -maxTemperatureCelsius, maxTemperatureCelsius,
			func(t int32) Sample { return temperatureMargin.Of(float64(t)) }),
		{
			Name: "temperature.margin.limit", Every: limitInterval, metrics: []*Metric{temperatureMarginLimit.Metric}, read: readMarginLimits,
			fields: []uint32{nvml.FieldMarginShutdown, nvml.FieldMarginSlowdown, nvml.FieldMarginMemoryMax, nvml.FieldMarginGPUMax},
		},
		temperatureLimitRow("shutdown", nvml.TemperatureShutdown, metadata.AttributeHwLimitTypeHighCritical),
		temperatureLimitRow("slowdown", nvml.TemperatureSlowdown, metadata.AttributeHwLimitTypeHighDegraded),
		temperatureLimitRow("max", nvml.TemperatureGPUMax, metadata.AttributeHwLimitTypeMax),
		temperatureLimitRow("memory_max", nvml.TemperatureMemoryMax, metadata.AttributeHwLimitTypeMemoryMax),
	}
}

func temperatureLimitRow(name string, which nvml.TemperatureLimitType, limit metadata.AttributeHwLimitType) Row {
	ask := func(d nvml.Device) (uint32, error) { return d.TemperatureLimit(which) }
	return single("temperature.limit."+name, ask, 1, maxTemperatureCelsius,
		func(t uint32) Sample { return temperatureLimit.Of(float64(t), limit) }).asLimit()
}

// marginLimits are the limits of GPUs that report a margin, in the order of their field
// values.
var marginLimits = [...]metadata.AttributeHwLimitType{
	metadata.AttributeHwLimitTypeHighCritical, metadata.AttributeHwLimitTypeHighDegraded,
	metadata.AttributeHwLimitTypeMemoryMax, metadata.AttributeHwLimitTypeMax,
}

// readMarginLimits reads offsets such as -8 and -2, which must not stand beside degrees.
func readMarginLimits(d nvml.Device, out *Output) error {
	values, err := out.fieldValues(d, nvml.FieldMarginShutdown, nvml.FieldMarginSlowdown, nvml.FieldMarginMemoryMax, nvml.FieldMarginGPUMax)
	if err != nil {
		return err
	}
	before := len(out.Samples)
	for i := range values {
		offset, fieldErr := nvml.FieldNumber(&values[i])
		if fieldErr != nil {
			err = fieldErr
			continue
		}
		out.putIf(offset >= -maxTemperatureCelsius && offset <= maxTemperatureCelsius, temperatureMarginLimit.Of(offset, marginLimits[i]))
	}
	if len(out.Samples) > before {
		return nil
	}
	return err
}
