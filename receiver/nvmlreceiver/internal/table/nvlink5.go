// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package table

import (
	"math"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

var (
	nvlinkPackets = newWithText(counter, "hw.gpu.nvlink.packets",
		func(mb *builder, ts timestamp, v int64, link string, d direction, id, name string) {
			mb.RecordHwGpuNvlinkPacketsDataPoint(ts, v, link, id, name, d)
		})
	nvlinkTraffic = newWithText(counter, "hw.gpu.nvlink.traffic",
		func(mb *builder, ts timestamp, v int64, link string, d direction, id, name string) {
			mb.RecordHwGpuNvlinkTrafficDataPoint(ts, v, link, id, name, d)
		})
	nvlinkRecoveries = newWithText(counter, "hw.gpu.nvlink.recoveries",
		func(mb *builder, ts timestamp, v int64, link string, o linkOutcome, id, name string) {
			mb.RecordHwGpuNvlinkRecoveriesDataPoint(ts, v, link, o, id, name)
		})
	nvlinkBitErrorRate = newWithText(level, "hw.gpu.nvlink.bit_error_rate",
		func(mb *builder, ts timestamp, v float64, link string, r linkRate, id, name string) {
			mb.RecordHwGpuNvlinkBitErrorRateDataPoint(ts, v, r, link, id, name)
		})
	nvlinkFEC = newWithText(counter, "hw.gpu.nvlink.fec.corrected",
		func(mb *builder, ts timestamp, v int64, link string, bin fecBin, id, name string) {
			mb.RecordHwGpuNvlinkFecCorrectedDataPoint(ts, v, linkNames[bin], link, id, name)
		})
)

type (
	linkOutcome = metadata.AttributeHwGpuNvlinkRecoveryOutcome
	linkRate    = metadata.AttributeHwGpuNvlinkBitErrors
	fecBin      int
)

// linkField is one counter of NVLink 5, or a rate, which is encoded: its field value, and the
// sample without its value and link.
type linkField struct {
	field  uint32
	sample Sample
	rate   bool
}

func linkCounter[A attribute](field uint32, m withText[int64, A], label A) linkField {
	return linkField{field: field, sample: m.Of(0, "", label)}
}

func linkBER(field uint32, label linkRate) linkField {
	return linkField{field: field, sample: nvlinkBitErrorRate.Of(0, "", label), rate: true}
}

// of is the sample of a value on a link.
func (f *linkField) of(n uint64, link string) Sample {
	s := f.sample
	s.Text = link
	if f.rate {
		s.float = nvml.BitErrorRate(n)
	} else {
		s.integer = int64(n)
	}
	return s
}

// nvlink5Rows report what links count from NVLink 5 on, where the older error counters do not
// exist: one row for each metric.
func nvlink5Rows() []Row {
	fec := make([]linkField, 0, nvml.NVLink5FECBins)
	for bin := range nvml.NVLink5FECBins {
		fec = append(fec, linkCounter(nvml.FieldNVLink5FEC+uint32(bin), nvlinkFEC, fecBin(bin)))
	}
	return []Row{
		nvlink5Row("packets", nvlinkPackets.Metric,
			linkCounter(nvml.FieldNVLink5TxPackets, nvlinkPackets, transmit), linkCounter(nvml.FieldNVLink5RxPackets, nvlinkPackets, receive)),
		nvlink5Row("traffic", nvlinkTraffic.Metric,
			linkCounter(nvml.FieldNVLink5TxBytes, nvlinkTraffic, transmit), linkCounter(nvml.FieldNVLink5RxBytes, nvlinkTraffic, receive)),
		nvlink5Row("errors", nvlinkErrors.Metric,
			linkCounter(nvml.FieldNVLink5Malformed, nvlinkErrors, metadata.AttributeHwGpuNvlinkErrorTypeMalformedPacket),
			linkCounter(nvml.FieldNVLink5Overrun, nvlinkErrors, metadata.AttributeHwGpuNvlinkErrorTypeBufferOverrun),
			linkCounter(nvml.FieldNVLink5RxErrors, nvlinkErrors, metadata.AttributeHwGpuNvlinkErrorTypeReceive),
			linkCounter(nvml.FieldNVLink5RxRemote, nvlinkErrors, metadata.AttributeHwGpuNvlinkErrorTypeReceiveRemote),
			linkCounter(nvml.FieldNVLink5RxGeneral, nvlinkErrors, metadata.AttributeHwGpuNvlinkErrorTypeReceiveGeneral),
			linkCounter(nvml.FieldNVLink5Integrity, nvlinkErrors, metadata.AttributeHwGpuNvlinkErrorTypeLocalIntegrity),
			linkCounter(nvml.FieldNVLink5TxDiscards, nvlinkErrors, metadata.AttributeHwGpuNvlinkErrorTypeTransmitDiscard),
			linkCounter(nvml.FieldNVLink5Effective, nvlinkErrors, metadata.AttributeHwGpuNvlinkErrorTypeEffective),
			linkCounter(nvml.FieldNVLink5Symbol, nvlinkErrors, metadata.AttributeHwGpuNvlinkErrorTypeSymbol)),
		nvlink5Row("recoveries", nvlinkRecoveries.Metric,
			linkCounter(nvml.FieldNVLink5RecoverySucceeded, nvlinkRecoveries, metadata.AttributeHwGpuNvlinkRecoveryOutcomeSuccess),
			linkCounter(nvml.FieldNVLink5RecoveryFailed, nvlinkRecoveries, metadata.AttributeHwGpuNvlinkRecoveryOutcomeFailure),
			linkCounter(nvml.FieldNVLink5Recoveries, nvlinkRecoveries, metadata.AttributeHwGpuNvlinkRecoveryOutcomeAny)),
		nvlink5Row("bit_error_rate", nvlinkBitErrorRate.Metric,
			linkBER(nvml.FieldNVLink5EffectiveBER, metadata.AttributeHwGpuNvlinkBitErrorsEffective),
			linkBER(nvml.FieldNVLink5SymbolBER, metadata.AttributeHwGpuNvlinkBitErrorsSymbol)),
		nvlink5Row("fec", nvlinkFEC.Metric, fec...),
	}
}

// nvlink5Row asks for its counters of all links, link by link: a list of field values is
// short on some drivers.
func nvlink5Row(name string, m *Metric, counters ...linkField) Row {
	return Row{
		Name: "nvlink5." + name, Every: linkInterval, metrics: []*Metric{m},
		read: func(d nvml.Device, out *Output) error {
			count, err := out.links.find(d)
			for link := 0; err == nil && link < count; link++ {
				err = readLink5(d, out, link, counters)
			}
			return err
		},
	}
}

func readLink5(d nvml.Device, out *Output, link int, counters []linkField) error {
	out.fields = out.fields[:0]
	for _, c := range counters {
		out.fields = append(out.fields, nvml.FieldValue{FieldId: c.field, ScopeId: uint32(link)})
	}
	if err := d.FieldValues(out.fields); err != nil {
		return err
	}
	supported := false
	for i := range out.fields {
		n, err := nvml.FieldNumber(&out.fields[i])
		switch {
		case nvml.IsUnsupported(err), nvml.IsInvalid(err):
			continue
		case err != nil:
			return err
		}
		supported = true
		if n >= 0 && n < math.MaxInt64 {
			out.put(counters[i].of(uint64(n), linkNames[link]))
		}
	}
	if !supported { // before NVLink 5
		return nvml.ErrNotSupported("nvmlDeviceGetFieldValues")
	}
	return nil
}
