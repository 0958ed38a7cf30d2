// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

// strongest is beyond what any GPU draws, in mW; more is no reading.
const strongest = 10_000_000

func powerFamilies() []family {
	return []family{
		{
			name: "power", needs: "nvmlDeviceGetFieldValues|nvmlDeviceGetPowerUsage",
			metrics: []metric{{
				func(c *metadata.MetricsConfig) bool { return c.HwPower.Enabled },
				func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
					mb.RecordHwPowerDataPoint(ts, s.float, metadata.AttributeHwGpuPowerScope(s.attribute), c.id, c.name, metadata.AttributeHwTypeGpu)
				},
			}},
			read: func(d nvml.Device, out *sheet) error {
				before := len(out.samples)
				v, err := out.fieldValues(d, nvml.FieldPowerInstant, nvml.FieldPowerAverage)
				if err == nil {
					for i, scope := range [...]metadata.AttributeHwGpuPowerScope{metadata.AttributeHwGpuPowerScopeInstant, metadata.AttributeHwGpuPowerScopeAverage} {
						if mw := nvml.FieldNumber(&v[i]); nvml.FieldError(&v[i]) == nil && mw >= 0 && mw <= strongest {
							out.float(0, int(scope), mw/1000)
						}
					}
				}
				if len(out.samples) > before {
					return nil
				}
				// Drivers before 525 have one figure and do not say which it is: the
				// present power before Ampere, the average from Ampere on.
				mw, err := d.PowerUsage()
				if err == nil && mw <= strongest {
					out.float(0, int(metadata.AttributeHwGpuPowerScopeAverage), float64(mw)/1000)
				}
				return err
			},
		},
		powerLimit("enforced", "nvmlDeviceGetEnforcedPowerLimit", metadata.AttributeHwPowerLimitTypeEnforced, nvml.Device.EnforcedPowerLimit),
		powerLimit("requested", "nvmlDeviceGetPowerManagementLimit", metadata.AttributeHwPowerLimitTypeRequested, nvml.Device.PowerLimit),
		powerLimit("default", "nvmlDeviceGetPowerManagementDefaultLimit", metadata.AttributeHwPowerLimitTypeDefault, nvml.Device.DefaultPowerLimit),
		{
			name: "power.limit.range", needs: "nvmlDeviceGetPowerManagementLimitConstraints", metrics: []metric{powerLimitMetric},
			read: func(d nvml.Device, out *sheet) error {
				r, err := d.PowerLimitRange()
				if err == nil && r.Max <= strongest {
					out.float(0, int(metadata.AttributeHwPowerLimitTypeMin), float64(r.Min)/1000)
					out.float(0, int(metadata.AttributeHwPowerLimitTypeMax), float64(r.Max)/1000)
				}
				return err
			},
		},
		{
			name: "energy", needs: "nvmlDeviceGetTotalEnergyConsumption|nvmlDeviceGetPowerUsage",
			metrics: []metric{{
				func(c *metadata.MetricsConfig) bool { return c.HwEnergy.Enabled },
				func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
					mb.RecordHwEnergyDataPoint(ts, s.float, metadata.AttributeHwGpuEnergySource(s.attribute), c.id, c.name, metadata.AttributeHwTypeGpu)
				},
			}},
			read: readEnergy,
		},
	}
}

// readEnergy asks for the GPU's counter. A GPU that has none has its power
// integrated, from here on by the sampler too.
func readEnergy(d nvml.Device, out *sheet) error {
	e := &out.window.energy
	if !e.integrated {
		mj, err := d.TotalEnergy()
		if kind := nvml.KindOf(err); err == nil || kind != nvml.NotSupported && kind != nvml.Missing {
			if err == nil && mj < 1<<62 {
				out.float(0, int(metadata.AttributeHwGpuEnergySourceCounter), float64(mj)/1000)
			}
			return err
		}
		e.integrated = true
	}
	if err := e.take(d, out.now); err != nil {
		return err
	}
	out.float(0, int(metadata.AttributeHwGpuEnergySourceIntegrated), e.joules)
	return nil
}

// longestPowerGap is the longest time between two readings of the power over
// which it is taken to have changed evenly; a longer one is not counted.
const longestPowerGap = time.Minute

// energyWindow integrates a GPU's power by the trapezoidal rule.
type energyWindow struct {
	integrated bool
	joules     float64 // since the receiver began with the GPU
	watts      float64
	at         time.Time
}

func (e *energyWindow) take(d nvml.Device, now time.Time) error {
	mw, err := d.PowerUsage()
	if err != nil || mw > strongest {
		return err
	}
	watts := float64(mw) / 1000
	if step := now.Sub(e.at); !e.at.IsZero() && step > 0 && step <= longestPowerGap {
		e.joules += (e.watts + watts) / 2 * step.Seconds()
	}
	e.watts, e.at = watts, now
	return nil
}

var powerLimitMetric = metric{
	func(c *metadata.MetricsConfig) bool { return c.HwGpuPowerLimit.Enabled },
	func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
		mb.RecordHwGpuPowerLimitDataPoint(ts, s.float, c.id, c.name, metadata.AttributeHwPowerLimitType(s.attribute))
	},
}

func powerLimit(name, needs string, kind metadata.AttributeHwPowerLimitType, ask func(nvml.Device) (uint32, error)) family {
	return family{
		name: "power.limit." + name, needs: needs, metrics: []metric{powerLimitMetric},
		read: func(d nvml.Device, out *sheet) error {
			mw, err := ask(d)
			if err == nil && mw <= strongest {
				out.float(0, int(kind), float64(mw)/1000)
			}
			return err
		},
	}
}
