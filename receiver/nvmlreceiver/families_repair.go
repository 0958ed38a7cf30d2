// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

// repairFamilies tell what was done about faulty memory, and what is left to do.
func repairFamilies() []family {
	return []family{
		{
			name: "row_remaps", needs: "nvmlDeviceGetFieldValues",
			metrics: []metric{{
				func(c *metadata.MetricsConfig) bool { return c.HwGpuRowRemaps.Enabled },
				func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
					mb.RecordHwGpuRowRemapsDataPoint(ts, s.integer, metadata.AttributeErrorType(s.attribute), c.id, c.name)
				},
			}},
			read: readByCause(nvml.FieldRemapCorrectable, nvml.FieldRemapUncorrectable),
		},
		{
			name: "row_remaps.banks", needs: "nvmlDeviceGetRowRemapperHistogram", status: true,
			metrics: []metric{{
				func(c *metadata.MetricsConfig) bool { return c.HwGpuRowRemapsBanks.Enabled },
				func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
					mb.RecordHwGpuRowRemapsBanksDataPoint(ts, s.integer, metadata.AttributeHwGpuRowRemapAvailability(s.attribute), c.id, c.name)
				},
			}},
			read: readRemapBanks,
		},
		{
			name: "row_remaps.pending", needs: "nvmlDeviceGetFieldValues", status: true,
			metrics: []metric{{
				func(c *metadata.MetricsConfig) bool { return c.HwGpuRowRemapsPending.Enabled },
				func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
					mb.RecordHwGpuRowRemapsPendingDataPoint(ts, s.integer, c.id, c.name)
				},
			}},
			read: readFlag(nvml.FieldRemapPending, func(h *health) *bool { return &h.repairPending }),
		},
		{
			name: "row_remaps.failed", needs: "nvmlDeviceGetFieldValues", status: true,
			metrics: []metric{{
				func(c *metadata.MetricsConfig) bool { return c.HwGpuRowRemapsFailed.Enabled },
				func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
					mb.RecordHwGpuRowRemapsFailedDataPoint(ts, s.integer, c.id, c.name)
				},
			}},
			read: readFlag(nvml.FieldRemapFailure, func(h *health) *bool { return &h.repairFailed }),
		},
		{
			name: "retired_pages", needs: "nvmlDeviceGetFieldValues",
			metrics: []metric{{
				func(c *metadata.MetricsConfig) bool { return c.HwGpuRetiredPages.Enabled },
				func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
					mb.RecordHwGpuRetiredPagesDataPoint(ts, s.integer, metadata.AttributeErrorType(s.attribute), c.id, c.name)
				},
			}},
			read: readByCause(nvml.FieldRetiredSingleBit, nvml.FieldRetiredDoubleBit),
		},
		{
			name: "retired_pages.pending", needs: "nvmlDeviceGetFieldValues", status: true,
			metrics: []metric{{
				func(c *metadata.MetricsConfig) bool { return c.HwGpuRetiredPagesPending.Enabled },
				func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
					mb.RecordHwGpuRetiredPagesPendingDataPoint(ts, s.integer, c.id, c.name)
				},
			}},
			read: readFlag(nvml.FieldRetiredPending, func(h *health) *bool { return &h.repairPending }),
		},
		{
			name: "recovery_action", needs: "nvmlDeviceGetFieldValues", status: true,
			metrics: []metric{{
				func(c *metadata.MetricsConfig) bool { return c.HwGpuRecoveryAction.Enabled },
				func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
					mb.RecordHwGpuRecoveryActionDataPoint(ts, s.integer, metadata.AttributeHwGpuRecoveryAction(s.attribute), c.id, c.name)
				},
			}},
			read: readRecoveryAction,
		},
	}
}

// most bounds counts that a GPU may make up.
const most = 1 << 32

// readByCause reads a pair of counters: after correctable and after
// uncorrectable errors.
func readByCause(corrected, uncorrected uint32) func(nvml.Device, *sheet) error {
	return func(d nvml.Device, out *sheet) error {
		values, err := out.fieldValues(d, corrected, uncorrected)
		if err != nil {
			return err
		}
		for i, attribute := range [...]metadata.AttributeErrorType{metadata.AttributeErrorTypeCorrected, metadata.AttributeErrorTypeUncorrected} {
			if err := nvml.FieldError(&values[i]); err != nil {
				return err
			}
			if n := nvml.FieldNumber(&values[i]); n >= 0 && n < most {
				out.int(0, int(attribute), int64(n))
			}
		}
		return nil
	}
}

func readRemapBanks(d nvml.Device, out *sheet) error {
	banks, err := d.RemapBanks()
	if err != nil {
		return err
	}
	for _, b := range [...]struct {
		availability metadata.AttributeHwGpuRowRemapAvailability
		n            uint32
		worn         bool
	}{
		{metadata.AttributeHwGpuRowRemapAvailabilityMax, banks.Max, false},
		{metadata.AttributeHwGpuRowRemapAvailabilityHigh, banks.High, false},
		{metadata.AttributeHwGpuRowRemapAvailabilityPartial, banks.Partial, false},
		{metadata.AttributeHwGpuRowRemapAvailabilityLow, banks.Low, true},
		{metadata.AttributeHwGpuRowRemapAvailabilityNone, banks.None, true},
	} {
		if b.n < mostBanks {
			out.int(0, int(b.availability), int64(b.n))
			out.health.bankWorn = out.health.bankWorn || b.worn && b.n > 0
		}
	}
	return nil
}

// mostBanks bounds a number that a GPU may make up.
const mostBanks = 1 << 20

// readFlag reads a field that is 0 or 1.
func readFlag(field uint32, status func(*health) *bool) func(nvml.Device, *sheet) error {
	return func(d nvml.Device, out *sheet) error {
		values, err := out.fieldValues(d, field)
		if err == nil {
			err = nvml.FieldError(&values[0])
		}
		if err != nil {
			return err
		}
		switch nvml.FieldNumber(&values[0]) {
		case 0:
			out.int(0, 0, 0)
		case 1:
			out.int(0, 0, 1)
			*status(&out.health) = true
		}
		return nil
	}
}

// recoveryActions are nvmlDeviceGpuRecoveryAction_t, by number.
var recoveryActions = [...]struct {
	attribute metadata.AttributeHwGpuRecoveryAction
	// failed says that the GPU is out of work until the action is taken.
	failed bool
}{
	{metadata.AttributeHwGpuRecoveryActionNone, false},
	{metadata.AttributeHwGpuRecoveryActionReset, true},
	{metadata.AttributeHwGpuRecoveryActionReboot, true},
	{metadata.AttributeHwGpuRecoveryActionDrainP2p, false},
	{metadata.AttributeHwGpuRecoveryActionDrainAndReset, true},
	{metadata.AttributeHwGpuRecoveryActionRecoverImexDomain, false},
	{metadata.AttributeHwGpuRecoveryActionBusReset, true},
	{metadata.AttributeHwGpuRecoveryActionSystemReboot, true},
}

func readRecoveryAction(d nvml.Device, out *sheet) error {
	values, err := out.fieldValues(d, nvml.FieldRecoveryAction)
	if err == nil {
		err = nvml.FieldError(&values[0])
	}
	if err != nil {
		return err
	}
	action := nvml.FieldNumber(&values[0])
	if action < 0 || action >= float64(len(recoveryActions)) || action != float64(int(action)) {
		return nil // an action that is not known yet
	}
	for i := range recoveryActions {
		is := int64(0)
		if i == int(action) {
			is = 1
			out.health.recoveryNeeded = recoveryActions[i].failed
			out.health.repairPending = out.health.repairPending || i > 0 && !recoveryActions[i].failed
		}
		out.int(0, int(recoveryActions[i].attribute), is)
	}
	return nil
}
