// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvml

import (
	gonvml "github.com/NVIDIA/go-nvml/pkg/nvml"
)

// MemoryInfo is the memory of the GPU with the reserve apart
// (nvmlDeviceGetMemoryInfo_v2).
func (d Device) MemoryInfo() (Memory, error) {
	m, err := get(d, "nvmlDeviceGetMemoryInfo_v2", gonvml.Device.GetMemoryInfo_v2)
	return Memory{Total: m.Total, Reserved: m.Reserved, Used: m.Used, Free: m.Free}, err
}

// MemoryInfoV1 is the memory of the GPU as drivers before 510 report it: the
// reserve is counted as used (nvmlDeviceGetMemoryInfo).
func (d Device) MemoryInfoV1() (Memory, error) {
	m, err := get(d, "nvmlDeviceGetMemoryInfo", gonvml.Device.GetMemoryInfo)
	return Memory{Total: m.Total, Used: m.Used, Free: m.Free}, err
}

// UtilizationRates is how busy the GPU and its memory were
// (nvmlDeviceGetUtilizationRates).
func (d Device) UtilizationRates() (Utilization, error) {
	return get(d, "nvmlDeviceGetUtilizationRates", gonvml.Device.GetUtilizationRates)
}

// EncoderUtilization is in percent (nvmlDeviceGetEncoderUtilization).
func (d Device) EncoderUtilization() (uint32, error) {
	return getFirst(d, "nvmlDeviceGetEncoderUtilization", gonvml.Device.GetEncoderUtilization)
}

// DecoderUtilization is in percent (nvmlDeviceGetDecoderUtilization).
func (d Device) DecoderUtilization() (uint32, error) {
	return getFirst(d, "nvmlDeviceGetDecoderUtilization", gonvml.Device.GetDecoderUtilization)
}

// JpegUtilization is in percent (nvmlDeviceGetJpgUtilization; Turing and newer).
func (d Device) JpegUtilization() (uint32, error) {
	return getFirst(d, "nvmlDeviceGetJpgUtilization", gonvml.Device.GetJpgUtilization)
}

// OfaUtilization is in percent (nvmlDeviceGetOfaUtilization; Turing and newer).
func (d Device) OfaUtilization() (uint32, error) {
	return getFirst(d, "nvmlDeviceGetOfaUtilization", gonvml.Device.GetOfaUtilization)
}

// UtilizationSample is the utilisation over one sampling period of the driver.
type UtilizationSample struct {
	// At is the period's end, in µs of the wall clock.
	At uint64
	// Percent is the average over the period.
	Percent float64
}

// SampledEngine names a buffer of the driver (nvmlSamplingType_t).
type SampledEngine = gonvml.SamplingType

// The utilisations whose samples the driver keeps.
const (
	SampledGeneral = gonvml.GPU_UTILIZATION_SAMPLES
	SampledEncoder = gonvml.ENC_UTILIZATION_SAMPLES
	SampledDecoder = gonvml.DEC_UTILIZATION_SAMPLES
)

// UtilizationSamples are the driver's own samples since a time in µs, oldest
// first: it keeps those of the last 10 to 20 s (nvmlDeviceGetSamples). They are
// appended to into.
func (d Device) UtilizationSamples(engine SampledEngine, since uint64, into []UtilizationSample) ([]UtilizationSample, error) {
	const function = "nvmlDeviceGetSamples"
	if err := d.lib.need(function); err != nil {
		return into, err
	}
	if out, err, ok := d.rawSamples(engine, since, into); ok {
		return out, err
	}
	d.calls.begin(function)
	defer d.calls.end()
	kind, samples, code := d.handle.GetSamples(engine, since)
	if code == gonvml.ERROR_NOT_FOUND { // nothing new
		return into, nil
	}
	for i := range samples {
		v := FieldValue{ValueType: uint32(kind), Value: samples[i].SampleValue}
		into = appendSample(into, &v, samples[i].TimeStamp, since)
	}
	return into, result(function, code)
}

// Temperature of the chip in °C (nvmlDeviceGetTemperature).
func (d Device) Temperature() (uint32, error) {
	return getBy(d, "nvmlDeviceGetTemperature", gonvml.TEMPERATURE_GPU, gonvml.Device.GetTemperature)
}

// TemperatureLimit in °C (nvmlDeviceGetTemperatureThreshold).
func (d Device) TemperatureLimit(which TemperatureLimitType) (uint32, error) {
	return getBy(d, "nvmlDeviceGetTemperatureThreshold", which, gonvml.Device.GetTemperatureThreshold)
}

// BAR1 is in bytes.
type BAR1 struct{ Total, Used uint64 }

// BAR1MemoryInfo is the window to the GPU's memory (nvmlDeviceGetBAR1MemoryInfo).
func (d Device) BAR1MemoryInfo() (BAR1, error) {
	m, err := get(d, "nvmlDeviceGetBAR1MemoryInfo", gonvml.Device.GetBAR1MemoryInfo)
	return BAR1{Total: m.Bar1Total, Used: m.Bar1Used}, err
}

// MarginTemperature in °C up to the temperature from which clocks are lowered
// (nvmlDeviceGetMarginTemperature; R560 and newer).
func (d Device) MarginTemperature() (int32, error) {
	m, err := get(d, "nvmlDeviceGetMarginTemperature", gonvml.Device.GetMarginTemperature)
	return m.MarginTemperature, err
}

// PowerUsage in mW: the present power, or an average over one second
// ([Identity.HasInstantPower], nvmlDeviceGetPowerUsage).
func (d Device) PowerUsage() (uint32, error) {
	return get(d, "nvmlDeviceGetPowerUsage", gonvml.Device.GetPowerUsage)
}

// EnforcedPowerLimit in mW (nvmlDeviceGetEnforcedPowerLimit).
func (d Device) EnforcedPowerLimit() (uint32, error) {
	return get(d, "nvmlDeviceGetEnforcedPowerLimit", gonvml.Device.GetEnforcedPowerLimit)
}

// PowerLimit in mW is the requested one (nvmlDeviceGetPowerManagementLimit).
func (d Device) PowerLimit() (uint32, error) {
	return get(d, "nvmlDeviceGetPowerManagementLimit", gonvml.Device.GetPowerManagementLimit)
}

// DefaultPowerLimit in mW (nvmlDeviceGetPowerManagementDefaultLimit).
func (d Device) DefaultPowerLimit() (uint32, error) {
	return get(d, "nvmlDeviceGetPowerManagementDefaultLimit", gonvml.Device.GetPowerManagementDefaultLimit)
}

// PowerLimitRange is the range of the limit
// (nvmlDeviceGetPowerManagementLimitConstraints).
func (d Device) PowerLimitRange() (PowerRange, error) {
	return get(d, "nvmlDeviceGetPowerManagementLimitConstraints", func(h gonvml.Device) (PowerRange, gonvml.Return) {
		low, high, code := h.GetPowerManagementLimitConstraints()
		return PowerRange{Min: low, Max: high}, code
	})
}

// TotalEnergy in mJ since the driver was loaded
// (nvmlDeviceGetTotalEnergyConsumption; Volta and newer).
func (d Device) TotalEnergy() (uint64, error) {
	return get(d, "nvmlDeviceGetTotalEnergyConsumption", gonvml.Device.GetTotalEnergyConsumption)
}

// Clock in MHz (nvmlDeviceGetClockInfo).
func (d Device) Clock(domain ClockDomain) (uint32, error) {
	return getBy(d, "nvmlDeviceGetClockInfo", domain, gonvml.Device.GetClockInfo)
}

// MaxClock in MHz (nvmlDeviceGetMaxClockInfo).
func (d Device) MaxClock(domain ClockDomain) (uint32, error) {
	return getBy(d, "nvmlDeviceGetMaxClockInfo", domain, gonvml.Device.GetMaxClockInfo)
}

// PerformanceState from 0 to 15, 32 where unknown (nvmlDeviceGetPerformanceState).
func (d Device) PerformanceState() (uint32, error) {
	p, err := get(d, "nvmlDeviceGetPerformanceState", gonvml.Device.GetPerformanceState)
	return uint32(p), err
}

// ThrottleReasons is a bit set (nvmlDeviceGetCurrentClocksEventReasons; drivers
// before 535 call it nvmlDeviceGetCurrentClocksThrottleReasons).
func (d Device) ThrottleReasons() (uint64, error) {
	if d.lib.Has("nvmlDeviceGetCurrentClocksEventReasons") {
		return get(d, "nvmlDeviceGetCurrentClocksEventReasons", gonvml.Device.GetCurrentClocksEventReasons)
	}
	return get(d, "nvmlDeviceGetCurrentClocksThrottleReasons", gonvml.Device.GetCurrentClocksThrottleReasons)
}

// ViolationTime in ns for which a policy held the clocks down
// (nvmlDeviceGetViolationStatus).
func (d Device) ViolationTime(policy Policy) (uint64, error) {
	v, err := getBy(d, "nvmlDeviceGetViolationStatus", policy, gonvml.Device.GetViolationStatus)
	return v.ViolationTime, err
}

// FieldValues fills in values; each has a return code of its own, which
// [FieldNumber] turns into an error (nvmlDeviceGetFieldValues).
func (d Device) FieldValues(values []FieldValue) error {
	const function = "nvmlDeviceGetFieldValues"
	if err := d.lib.need(function); err != nil {
		return err
	}
	d.calls.begin(function)
	defer d.calls.end()
	return result(function, d.handle.GetFieldValues(values))
}

// FanCount counts the fans (nvmlDeviceGetNumFans; 510 and newer).
func (d Device) FanCount() (int, error) {
	return get(d, "nvmlDeviceGetNumFans", gonvml.Device.GetNumFans)
}

// FanSpeed in percent of the fan's largest (nvmlDeviceGetFanSpeed_v2).
func (d Device) FanSpeed(fan int) (uint32, error) {
	return getBy(d, "nvmlDeviceGetFanSpeed_v2", fan, gonvml.Device.GetFanSpeed_v2)
}

// FanRPM is the speed of the first fan in revolutions per minute; go-nvml cannot
// ask for the others (nvmlDeviceGetFanSpeedRPM; R565 and newer).
func (d Device) FanRPM() (uint32, error) {
	info, err := get(d, "nvmlDeviceGetFanSpeedRPM", gonvml.Device.GetFanSpeedRPM)
	return info.Speed, err
}

// PcieGeneration is the link's present one (nvmlDeviceGetCurrPcieLinkGeneration).
func (d Device) PcieGeneration() (int, error) {
	return get(d, "nvmlDeviceGetCurrPcieLinkGeneration", gonvml.Device.GetCurrPcieLinkGeneration)
}

// MaxPcieGeneration is the maximum of GPU and slot (nvmlDeviceGetMaxPcieLinkGeneration).
func (d Device) MaxPcieGeneration() (int, error) {
	return get(d, "nvmlDeviceGetMaxPcieLinkGeneration", gonvml.Device.GetMaxPcieLinkGeneration)
}

// PcieWidth is the link's present one in lanes (nvmlDeviceGetCurrPcieLinkWidth).
func (d Device) PcieWidth() (int, error) {
	return get(d, "nvmlDeviceGetCurrPcieLinkWidth", gonvml.Device.GetCurrPcieLinkWidth)
}

// MaxPcieWidth is the maximum of GPU and slot (nvmlDeviceGetMaxPcieLinkWidth).
func (d Device) MaxPcieWidth() (int, error) {
	return get(d, "nvmlDeviceGetMaxPcieLinkWidth", gonvml.Device.GetMaxPcieLinkWidth)
}

// PcieReplays counts packets that were sent again (nvmlDeviceGetPcieReplayCounter).
func (d Device) PcieReplays() (int, error) {
	return get(d, "nvmlDeviceGetPcieReplayCounter", gonvml.Device.GetPcieReplayCounter)
}

// EccErrors counts memory errors (nvmlDeviceGetMemoryErrorCounter).
func (d Device) EccErrors(which EccCounter) (uint64, error) {
	return getBy(d, "nvmlDeviceGetMemoryErrorCounter", which, func(h gonvml.Device, w EccCounter) (uint64, gonvml.Return) {
		kind, lifetime, location := gonvml.MEMORY_ERROR_TYPE_CORRECTED, gonvml.VOLATILE_ECC, gonvml.MEMORY_LOCATION_SRAM
		if w.Uncorrected {
			kind = gonvml.MEMORY_ERROR_TYPE_UNCORRECTED
		}
		if w.Aggregate {
			lifetime = gonvml.AGGREGATE_ECC
		}
		if w.DRAM {
			location = gonvml.MEMORY_LOCATION_DRAM
		}
		return h.GetMemoryErrorCounter(kind, lifetime, location)
	})
}

// RemapBanks counts the banks of the memory by how many spare rows they have left.
type RemapBanks = gonvml.RowRemapperHistogramValues

// RemapBanks are the banks by spare rows (nvmlDeviceGetRowRemapperHistogram;
// Ampere and newer with ECC).
func (d Device) RemapBanks() (RemapBanks, error) {
	return get(d, "nvmlDeviceGetRowRemapperHistogram", gonvml.Device.GetRowRemapperHistogram)
}
