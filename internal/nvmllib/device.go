//go:build linux && cgo

package nvmllib

import "github.com/NVIDIA/go-nvml/pkg/nvml"

// Device is a handle of one card. Its methods are NVML's functions, each looked
// up before it is called, their errors of type [*Error]. Units are NVML's own.
type Device struct {
	lib    *Library
	handle nvml.Device
}

// The types of NVML that readings use.
type (
	// Memory is in bytes; Reserved is known from driver 510 on.
	Memory struct{ Total, Reserved, Used uint64 }
	// Utilization is in percent of the last sampling period.
	Utilization = nvml.Utilization
	// FieldValue is one value of nvmlDeviceGetFieldValues.
	FieldValue = nvml.FieldValue
	// PowerRange is in mW.
	PowerRange struct{ Min, Max uint32 }
)

// ClockDomain names a clock (nvmlClockType_t).
type ClockDomain = nvml.ClockType

// The clocks of a card.
const (
	ClockGraphics = nvml.CLOCK_GRAPHICS
	ClockSM       = nvml.CLOCK_SM
	ClockMemory   = nvml.CLOCK_MEM
	ClockVideo    = nvml.CLOCK_VIDEO
)

// TemperatureLimitType names a limit (nvmlTemperatureThresholds_t).
type TemperatureLimitType = nvml.TemperatureThresholds

// The temperature limits that are recorded.
const (
	TemperatureShutdown  = nvml.TEMPERATURE_THRESHOLD_SHUTDOWN
	TemperatureSlowdown  = nvml.TEMPERATURE_THRESHOLD_SLOWDOWN
	TemperatureMemoryMax = nvml.TEMPERATURE_THRESHOLD_MEM_MAX
	TemperatureGPUMax    = nvml.TEMPERATURE_THRESHOLD_GPU_MAX
)

// Policy names a counter of nvmlDeviceGetViolationStatus.
type Policy = nvml.PerfPolicyType

// The policies that hold clocks down.
const (
	PolicyPower     = nvml.PERF_POLICY_POWER
	PolicyThermal   = nvml.PERF_POLICY_THERMAL
	PolicySyncBoost = nvml.PERF_POLICY_SYNC_BOOST
)

// EccCounter names one counter of nvmlDeviceGetMemoryErrorCounter.
type EccCounter struct {
	Uncorrected, Aggregate, DRAM bool
}

func get[T any](d Device, function string, call func(nvml.Device) (T, nvml.Return)) (T, error) {
	if !d.lib.Has(function) {
		var none T
		return none, missing(function)
	}
	v, code := call(d.handle)
	return v, result(function, code)
}

func getBy[T, A any](d Device, function string, argument A, call func(nvml.Device, A) (T, nvml.Return)) (T, error) {
	if !d.lib.Has(function) {
		var none T
		return none, missing(function)
	}
	v, code := call(d.handle, argument)
	return v, result(function, code)
}

// Has reports whether the library has a function; see [Library.Has].
func (d Device) Has(function string) bool { return d.lib.Has(function) }

// UUID is the card's own name (nvmlDeviceGetUUID).
func (d Device) UUID() (string, error) { return get(d, "nvmlDeviceGetUUID", nvml.Device.GetUUID) }

// Name is the product's name (nvmlDeviceGetName).
func (d Device) Name() (string, error) { return get(d, "nvmlDeviceGetName", nvml.Device.GetName) }

// Serial is the serial number (nvmlDeviceGetSerial), on data-centre cards.
func (d Device) Serial() (string, error) {
	return get(d, "nvmlDeviceGetSerial", nvml.Device.GetSerial)
}

// VbiosVersion is the VBIOS's version (nvmlDeviceGetVbiosVersion).
func (d Device) VbiosVersion() (string, error) {
	return get(d, "nvmlDeviceGetVbiosVersion", nvml.Device.GetVbiosVersion)
}

// BoardPartNumber is the board's part number (nvmlDeviceGetBoardPartNumber).
func (d Device) BoardPartNumber() (string, error) {
	return get(d, "nvmlDeviceGetBoardPartNumber", nvml.Device.GetBoardPartNumber)
}

// MinorNumber is the number of the card's device file (nvmlDeviceGetMinorNumber).
func (d Device) MinorNumber() (int, error) {
	return get(d, "nvmlDeviceGetMinorNumber", nvml.Device.GetMinorNumber)
}

// PCIBusID is the PCI address, such as 00000000:01:00.0 (nvmlDeviceGetPciInfo_v3).
func (d Device) PCIBusID() (string, error) {
	info, err := get(d, "nvmlDeviceGetPciInfo_v3|nvmlDeviceGetPciInfo_v2|nvmlDeviceGetPciInfo", nvml.Device.GetPciInfo)
	if err != nil {
		return "", err
	}
	return cString(info.BusId[:]), nil
}

// Architecture is the chip's generation (nvmlDeviceGetArchitecture).
func (d Device) Architecture() (string, error) {
	a, err := get(d, "nvmlDeviceGetArchitecture", nvml.Device.GetArchitecture)
	if err != nil {
		return "", err
	}
	return architectures[a], nil
}

var architectures = map[nvml.DeviceArchitecture]string{
	nvml.DEVICE_ARCH_KEPLER:    "Kepler",
	nvml.DEVICE_ARCH_MAXWELL:   "Maxwell",
	nvml.DEVICE_ARCH_PASCAL:    "Pascal",
	nvml.DEVICE_ARCH_VOLTA:     "Volta",
	nvml.DEVICE_ARCH_TURING:    "Turing",
	nvml.DEVICE_ARCH_AMPERE:    "Ampere",
	nvml.DEVICE_ARCH_ADA:       "Ada Lovelace",
	nvml.DEVICE_ARCH_HOPPER:    "Hopper",
	nvml.DEVICE_ARCH_BLACKWELL: "Blackwell",
}

// MIGEnabled reports whether the card is divided (nvmlDeviceGetMigMode).
func (d Device) MIGEnabled() (bool, error) {
	return get(d, "nvmlDeviceGetMigMode", func(h nvml.Device) (bool, nvml.Return) {
		current, _, code := h.GetMigMode()
		return current == nvml.DEVICE_MIG_ENABLE, code
	})
}

// MemoryInfo is the memory of the card with the reserve apart
// (nvmlDeviceGetMemoryInfo_v2).
func (d Device) MemoryInfo() (Memory, error) {
	return get(d, "nvmlDeviceGetMemoryInfo_v2", func(h nvml.Device) (Memory, nvml.Return) {
		m, code := h.GetMemoryInfo_v2()
		return Memory{Total: m.Total, Reserved: m.Reserved, Used: m.Used}, code
	})
}

// MemoryInfoV1 is the memory of the card as drivers before 510 tell it: the
// reserve is counted as used (nvmlDeviceGetMemoryInfo).
func (d Device) MemoryInfoV1() (Memory, error) {
	return get(d, "nvmlDeviceGetMemoryInfo", func(h nvml.Device) (Memory, nvml.Return) {
		m, code := h.GetMemoryInfo()
		return Memory{Total: m.Total, Used: m.Used}, code
	})
}

// UtilizationRates is how busy the card and its memory were
// (nvmlDeviceGetUtilizationRates).
func (d Device) UtilizationRates() (Utilization, error) {
	return get(d, "nvmlDeviceGetUtilizationRates", nvml.Device.GetUtilizationRates)
}

// EncoderUtilization is in percent (nvmlDeviceGetEncoderUtilization).
func (d Device) EncoderUtilization() (uint32, error) {
	return get(d, "nvmlDeviceGetEncoderUtilization", func(h nvml.Device) (uint32, nvml.Return) { return first(h.GetEncoderUtilization()) })
}

// DecoderUtilization is in percent (nvmlDeviceGetDecoderUtilization).
func (d Device) DecoderUtilization() (uint32, error) {
	return get(d, "nvmlDeviceGetDecoderUtilization", func(h nvml.Device) (uint32, nvml.Return) { return first(h.GetDecoderUtilization()) })
}

// JpegUtilization is in percent (nvmlDeviceGetJpgUtilization; Turing and newer).
func (d Device) JpegUtilization() (uint32, error) {
	return get(d, "nvmlDeviceGetJpgUtilization", func(h nvml.Device) (uint32, nvml.Return) { return first(h.GetJpgUtilization()) })
}

// OfaUtilization is in percent (nvmlDeviceGetOfaUtilization; Turing and newer).
func (d Device) OfaUtilization() (uint32, error) {
	return get(d, "nvmlDeviceGetOfaUtilization", func(h nvml.Device) (uint32, nvml.Return) { return first(h.GetOfaUtilization()) })
}

func first(utilization, _ uint32, code nvml.Return) (uint32, nvml.Return) { return utilization, code }

// UtilizationSample is the utilisation over one sampling period of the driver.
type UtilizationSample struct {
	// At is the period's end, in µs of the wall clock.
	At uint64
	// Percent is the average over the period.
	Percent float64
}

// SampledEngine names a buffer of the driver (nvmlSamplingType_t).
type SampledEngine = nvml.SamplingType

// The utilisations whose samples the driver keeps.
const (
	SampledGeneral = nvml.GPU_UTILIZATION_SAMPLES
	SampledEncoder = nvml.ENC_UTILIZATION_SAMPLES
	SampledDecoder = nvml.DEC_UTILIZATION_SAMPLES
)

// UtilizationSamples are the driver's own samples since a time in µs, oldest
// first: it keeps those of the last 10 to 20 s (nvmlDeviceGetSamples). They are
// appended to into.
func (d Device) UtilizationSamples(engine SampledEngine, since uint64, into []UtilizationSample) ([]UtilizationSample, error) {
	const function = "nvmlDeviceGetSamples"
	if !d.lib.Has(function) {
		return into, missing(function)
	}
	kind, samples, code := d.handle.GetSamples(engine, since)
	if code == nvml.ERROR_NOT_FOUND { // nothing new
		return into, nil
	}
	for i := range samples {
		v := FieldValue{ValueType: uint32(kind), Value: samples[i].SampleValue}
		if n := FieldNumber(&v); samples[i].TimeStamp > since && n >= 0 && n <= 100 {
			into = append(into, UtilizationSample{At: samples[i].TimeStamp, Percent: n})
		}
	}
	return into, result(function, code)
}

// Temperature of the chip in °C (nvmlDeviceGetTemperature).
func (d Device) Temperature() (uint32, error) {
	return getBy(d, "nvmlDeviceGetTemperature", nvml.TEMPERATURE_GPU, nvml.Device.GetTemperature)
}

// TemperatureLimit in °C (nvmlDeviceGetTemperatureThreshold).
func (d Device) TemperatureLimit(which TemperatureLimitType) (uint32, error) {
	return getBy(d, "nvmlDeviceGetTemperatureThreshold", which, nvml.Device.GetTemperatureThreshold)
}

// BAR1 is in bytes.
type BAR1 struct{ Total, Used uint64 }

// BAR1MemoryInfo is the window to the card's memory (nvmlDeviceGetBAR1MemoryInfo).
func (d Device) BAR1MemoryInfo() (BAR1, error) {
	return get(d, "nvmlDeviceGetBAR1MemoryInfo", func(h nvml.Device) (BAR1, nvml.Return) {
		m, code := h.GetBAR1MemoryInfo()
		return BAR1{Total: m.Bar1Total, Used: m.Bar1Used}, code
	})
}

// MarginTemperature in °C up to the temperature from which clocks are lowered
// (nvmlDeviceGetMarginTemperature; R560 and newer).
func (d Device) MarginTemperature() (int32, error) {
	return get(d, "nvmlDeviceGetMarginTemperature", func(h nvml.Device) (int32, nvml.Return) {
		m, code := h.GetMarginTemperature()
		return m.MarginTemperature, code
	})
}

// PowerUsage in mW: on Ampere and newer an average over one second
// (nvmlDeviceGetPowerUsage).
func (d Device) PowerUsage() (uint32, error) {
	return get(d, "nvmlDeviceGetPowerUsage", nvml.Device.GetPowerUsage)
}

// EnforcedPowerLimit in mW (nvmlDeviceGetEnforcedPowerLimit).
func (d Device) EnforcedPowerLimit() (uint32, error) {
	return get(d, "nvmlDeviceGetEnforcedPowerLimit", nvml.Device.GetEnforcedPowerLimit)
}

// PowerLimit in mW is the requested one (nvmlDeviceGetPowerManagementLimit).
func (d Device) PowerLimit() (uint32, error) {
	return get(d, "nvmlDeviceGetPowerManagementLimit", nvml.Device.GetPowerManagementLimit)
}

// DefaultPowerLimit in mW (nvmlDeviceGetPowerManagementDefaultLimit).
func (d Device) DefaultPowerLimit() (uint32, error) {
	return get(d, "nvmlDeviceGetPowerManagementDefaultLimit", nvml.Device.GetPowerManagementDefaultLimit)
}

// PowerLimitRange is what the limit can be set to
// (nvmlDeviceGetPowerManagementLimitConstraints).
func (d Device) PowerLimitRange() (PowerRange, error) {
	return get(d, "nvmlDeviceGetPowerManagementLimitConstraints", func(h nvml.Device) (PowerRange, nvml.Return) {
		low, high, code := h.GetPowerManagementLimitConstraints()
		return PowerRange{Min: low, Max: high}, code
	})
}

// TotalEnergy in mJ since the driver was loaded
// (nvmlDeviceGetTotalEnergyConsumption; Volta and newer).
func (d Device) TotalEnergy() (uint64, error) {
	return get(d, "nvmlDeviceGetTotalEnergyConsumption", nvml.Device.GetTotalEnergyConsumption)
}

// Clock in MHz (nvmlDeviceGetClockInfo).
func (d Device) Clock(domain ClockDomain) (uint32, error) {
	return getBy(d, "nvmlDeviceGetClockInfo", domain, nvml.Device.GetClockInfo)
}

// MaxClock in MHz (nvmlDeviceGetMaxClockInfo).
func (d Device) MaxClock(domain ClockDomain) (uint32, error) {
	return getBy(d, "nvmlDeviceGetMaxClockInfo", domain, nvml.Device.GetMaxClockInfo)
}

// PerformanceState from 0 to 15, 32 where unknown (nvmlDeviceGetPerformanceState).
func (d Device) PerformanceState() (uint32, error) {
	return get(d, "nvmlDeviceGetPerformanceState", func(h nvml.Device) (uint32, nvml.Return) {
		p, code := h.GetPerformanceState()
		return uint32(p), code
	})
}

// ThrottleReasons is a bit set (nvmlDeviceGetCurrentClocksEventReasons; drivers
// before 535 call it nvmlDeviceGetCurrentClocksThrottleReasons).
func (d Device) ThrottleReasons() (uint64, error) {
	if d.Has("nvmlDeviceGetCurrentClocksEventReasons") {
		return get(d, "nvmlDeviceGetCurrentClocksEventReasons", nvml.Device.GetCurrentClocksEventReasons)
	}
	return get(d, "nvmlDeviceGetCurrentClocksThrottleReasons", nvml.Device.GetCurrentClocksThrottleReasons)
}

// ViolationTime in ns for which a policy held the clocks down
// (nvmlDeviceGetViolationStatus).
func (d Device) ViolationTime(policy Policy) (uint64, error) {
	return getBy(d, "nvmlDeviceGetViolationStatus", policy, func(h nvml.Device, p Policy) (uint64, nvml.Return) {
		v, code := h.GetViolationStatus(p)
		return v.ViolationTime, code
	})
}

// FieldValues fills in values; each has a return code of its own, which
// [FieldError] turns into an error (nvmlDeviceGetFieldValues).
func (d Device) FieldValues(values []FieldValue) error {
	const function = "nvmlDeviceGetFieldValues"
	if !d.lib.Has(function) {
		return missing(function)
	}
	return result(function, d.handle.GetFieldValues(values))
}

// FieldError is the error of one field value.
func FieldError(v *FieldValue) error {
	return result("nvmlDeviceGetFieldValues", nvml.Return(v.NvmlReturn))
}

// FanCount counts the fans (nvmlDeviceGetNumFans; 510 and newer).
func (d Device) FanCount() (int, error) {
	return get(d, "nvmlDeviceGetNumFans", nvml.Device.GetNumFans)
}

// FanSpeed in percent of the fan's largest (nvmlDeviceGetFanSpeed_v2).
func (d Device) FanSpeed(fan int) (uint32, error) {
	return getBy(d, "nvmlDeviceGetFanSpeed_v2", fan, nvml.Device.GetFanSpeed_v2)
}

// FanRPM is the speed of the first fan in revolutions per minute; go-nvml cannot
// ask for the others (nvmlDeviceGetFanSpeedRPM; R565 and newer).
func (d Device) FanRPM() (uint32, error) {
	return get(d, "nvmlDeviceGetFanSpeedRPM", func(h nvml.Device) (uint32, nvml.Return) {
		info, code := h.GetFanSpeedRPM()
		return info.Speed, code
	})
}

// PcieGeneration is the link's present one (nvmlDeviceGetCurrPcieLinkGeneration).
func (d Device) PcieGeneration() (int, error) {
	return get(d, "nvmlDeviceGetCurrPcieLinkGeneration", nvml.Device.GetCurrPcieLinkGeneration)
}

// MaxPcieGeneration is what card and slot can do (nvmlDeviceGetMaxPcieLinkGeneration).
func (d Device) MaxPcieGeneration() (int, error) {
	return get(d, "nvmlDeviceGetMaxPcieLinkGeneration", nvml.Device.GetMaxPcieLinkGeneration)
}

// PcieWidth is the link's present one in lanes (nvmlDeviceGetCurrPcieLinkWidth).
func (d Device) PcieWidth() (int, error) {
	return get(d, "nvmlDeviceGetCurrPcieLinkWidth", nvml.Device.GetCurrPcieLinkWidth)
}

// MaxPcieWidth is what card and slot can do (nvmlDeviceGetMaxPcieLinkWidth).
func (d Device) MaxPcieWidth() (int, error) {
	return get(d, "nvmlDeviceGetMaxPcieLinkWidth", nvml.Device.GetMaxPcieLinkWidth)
}

// PcieReplays counts packets that were sent again (nvmlDeviceGetPcieReplayCounter).
func (d Device) PcieReplays() (int, error) {
	return get(d, "nvmlDeviceGetPcieReplayCounter", nvml.Device.GetPcieReplayCounter)
}

// EccErrors counts memory errors (nvmlDeviceGetMemoryErrorCounter).
func (d Device) EccErrors(which EccCounter) (uint64, error) {
	return getBy(d, "nvmlDeviceGetMemoryErrorCounter", which, func(h nvml.Device, w EccCounter) (uint64, nvml.Return) {
		kind, lifetime, location := nvml.MEMORY_ERROR_TYPE_CORRECTED, nvml.VOLATILE_ECC, nvml.MEMORY_LOCATION_SRAM
		if w.Uncorrected {
			kind = nvml.MEMORY_ERROR_TYPE_UNCORRECTED
		}
		if w.Aggregate {
			lifetime = nvml.AGGREGATE_ECC
		}
		if w.DRAM {
			location = nvml.MEMORY_LOCATION_DRAM
		}
		return h.GetMemoryErrorCounter(kind, lifetime, location)
	})
}

// RemapBanks counts the banks of the memory by how many spare rows they have left.
type RemapBanks = nvml.RowRemapperHistogramValues

// RemapBanks are the banks by spare rows (nvmlDeviceGetRowRemapperHistogram;
// Ampere and newer with ECC).
func (d Device) RemapBanks() (RemapBanks, error) {
	return get(d, "nvmlDeviceGetRowRemapperHistogram", nvml.Device.GetRowRemapperHistogram)
}

func cString(b []int8) string {
	out := make([]byte, 0, len(b))
	for _, c := range b {
		if c == 0 {
			break
		}
		out = append(out, byte(c))
	}
	return string(out)
}
