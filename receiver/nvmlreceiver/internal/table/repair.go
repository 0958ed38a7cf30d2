// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package table

import (
	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

var (
	rowRemaps           = newWith1(counter, "hw.gpu.row_remaps", (*builder).RecordHwGpuRowRemapsDataPoint)
	rowRemapsBanks      = newWith1(level, "hw.gpu.row_remaps.banks", (*builder).RecordHwGpuRowRemapsBanksDataPoint)
	rowRemapsPending    = newPlain(level, "hw.gpu.row_remaps.pending", (*builder).RecordHwGpuRowRemapsPendingDataPoint)
	rowRemapsFailed     = newPlain(level, "hw.gpu.row_remaps.failed", (*builder).RecordHwGpuRowRemapsFailedDataPoint)
	retiredPages        = newWith1(counter, "hw.gpu.retired_pages", (*builder).RecordHwGpuRetiredPagesDataPoint)
	retiredPagesPending = newPlain(level, "hw.gpu.retired_pages.pending", (*builder).RecordHwGpuRetiredPagesPendingDataPoint)
	recoveryAction      = newWith1(level, "hw.gpu.recovery_action", (*builder).RecordHwGpuRecoveryActionDataPoint)
)

const (
	// maxRepairs and maxBanks are beyond what any memory has: more is not a valid
	// reading.
	maxRepairs = 1 << 32
	maxBanks   = 1 << 20
)

// repairRows report what was done about faulty memory, and what is left to do.
func repairRows() []Row {
	return []Row{
		causeRow("row_remaps", rowRemaps, nvml.FieldRemapCorrectable, nvml.FieldRemapUncorrectable),
		{Name: "row_remaps.banks", Status: true, metrics: []*Metric{rowRemapsBanks.Metric}, read: readRemapBanks},
		flagRow("row_remaps.pending", rowRemapsPending, nvml.FieldRemapPending, (*Health).pending),
		flagRow("row_remaps.failed", rowRemapsFailed, nvml.FieldRemapFailure, (*Health).failed),
		causeRow("retired_pages", retiredPages, nvml.FieldRetiredSingleBit, nvml.FieldRetiredDoubleBit),
		flagRow("retired_pages.pending", retiredPagesPending, nvml.FieldRetiredPending, (*Health).pending),
		{
			Name: "recovery_action", Status: true, metrics: []*Metric{recoveryAction.Metric}, read: readRecoveryAction,
			fields: []uint32{nvml.FieldRecoveryAction},
		},
	}
}

// causeRow reads a pair of counters: after correctable and after uncorrectable errors.
func causeRow(name string, m with1[int64, errorType], afterCorrected, afterUncorrected uint32) Row {
	return Row{
		Name: name, metrics: []*Metric{m.Metric}, fields: []uint32{afterCorrected, afterUncorrected},
		read: func(d nvml.Device, out *Output) error {
			values, err := out.fieldValues(d, afterCorrected, afterUncorrected)
			if err != nil {
				return err
			}
			for i, e := range [...]errorType{corrected, uncorrected} {
				n, err := nvml.FieldNumber(&values[i])
				if err != nil {
					return err
				}
				out.putIf(n >= 0 && n < maxRepairs, m.Of(int64(n), e))
			}
			return nil
		},
	}
}

// flagRow reads a field that is 0 or 1, which becomes part of the health too.
func flagRow(name string, m plain[int64], field uint32, health func(*Health) *bool) Row {
	return Row{
		Name: name, Status: true, metrics: []*Metric{m.Metric}, fields: []uint32{field},
		read: func(d nvml.Device, out *Output) error {
			v, err := out.fieldValue(d, field)
			if err == nil && (v == 0 || v == 1) {
				out.put(m.Of(int64(v)))
				*health(&out.Health) = *health(&out.Health) || v == 1
			}
			return err
		},
	}
}

func (h *Health) pending() *bool { return &h.RepairPending }

func (h *Health) failed() *bool { return &h.RepairFailed }

func readRemapBanks(d nvml.Device, out *Output) error {
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
		if b.n < maxBanks {
			out.put(rowRemapsBanks.Of(int64(b.n), b.availability))
			out.Health.BankWorn = out.Health.BankWorn || b.worn && b.n > 0
		}
	}
	return nil
}

// recoveryActions are nvmlDeviceGpuRecoveryAction_t, by number.
var recoveryActions = [...]struct {
	action metadata.AttributeHwGpuRecoveryAction
	// unusable is true if the GPU does not work until the action is done.
	unusable bool
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

func readRecoveryAction(d nvml.Device, out *Output) error {
	wanted, err := out.fieldValue(d, nvml.FieldRecoveryAction)
	if err != nil {
		return err
	}
	if wanted < 0 || wanted >= float64(len(recoveryActions)) || wanted != float64(int(wanted)) {
		return nil // an action of a newer driver
	}
	for i := range recoveryActions {
		a := &recoveryActions[i]
		is := i == int(wanted)
		out.put(recoveryAction.Of(Flag(is), a.action))
		if is {
			out.Health.RecoveryNeeded = a.unusable
			out.Health.RepairPending = out.Health.RepairPending || i > 0 && !a.unusable
		}
	}
	return nil
}
