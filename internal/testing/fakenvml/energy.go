// SPDX-License-Identifier: Apache-2.0

package fakenvml

import "github.com/otelcol-gpu/otelcol-gpu/internal/testing/gpumodel"

// The fields of the energy counter and of the power readings.
const (
	fieldEnergy       = 83
	fieldPowerAverage = 185
	fieldPowerInstant = 186
)

// SetEnergyKind makes the GPU show its power as a kind of GPU does: by a counter that steps,
// lags or samples a part of the time, by power that is old, or by what is left of them.
func (c *GPU) SetEnergyKind(m gpumodel.Model) {
	c.Set("counter_period_us", m.Counter.Period.Microseconds())
	c.Set("counter_lag_us", m.Counter.Lag.Microseconds())
	c.Set("counter_share_permille", int64(1000*m.Counter.Share))
	c.Set("counter_gain_permille", int64(1000*m.Counter.Gain))
	c.Set("power_period_us", m.Power.Period.Microseconds())
	if m.Name != "" {
		c.SetText("name", m.Name)
	}
	if m.Counter.Absent {
		c.SetReturn("nvmlDeviceGetTotalEnergyConsumption", NotSupported)
		c.SetField(fieldEnergy, 0, TypeUnsignedLL, NotSupported)
	}
	if m.Power.NoInstant {
		c.SetField(fieldPowerInstant, 0, TypeUnsignedInt, NotSupported)
	}
	if m.Power.NoAverage {
		c.SetField(fieldPowerAverage, 0, TypeUnsignedInt, NotSupported)
	}
}
