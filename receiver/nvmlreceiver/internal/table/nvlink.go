// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package table

import (
	"math"
	"strconv"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

var (
	nvlinkState = newWithText(level, "hw.gpu.nvlink.state",
		func(mb *builder, ts timestamp, v int64, link string, _ noAttribute, id, name string) {
			mb.RecordHwGpuNvlinkStateDataPoint(ts, v, link, id, name)
		})
	nvlinkIO = newWithText(counter, "hw.gpu.nvlink.io",
		func(mb *builder, ts timestamp, v int64, link string, d direction, id, name string) {
			mb.RecordHwGpuNvlinkIoDataPoint(ts, v, link, id, name, d)
		})
	nvlinkErrors = newWithText(counter, "hw.gpu.nvlink.errors",
		func(mb *builder, ts timestamp, v int64, link string, e linkError, id, name string) {
			mb.RecordHwGpuNvlinkErrorsDataPoint(ts, v, e, link, id, name)
		})
)

type linkError = metadata.AttributeHwGpuNvlinkErrorType

// linkNames are the numbers of the links as text.
var linkNames = func() (names [nvml.MaxNVLinks]string) {
	for i := range names {
		names[i] = strconv.Itoa(i)
	}
	return names
}()

// linkErrors are the counters of a link.
var linkErrors = [...]struct {
	counter nvml.NVLinkError
	label   linkError
}{
	{nvml.NVLinkReplay, metadata.AttributeHwGpuNvlinkErrorTypeReplay},
	{nvml.NVLinkRecovery, metadata.AttributeHwGpuNvlinkErrorTypeRecovery},
	{nvml.NVLinkCRCFlit, metadata.AttributeHwGpuNvlinkErrorTypeCrcFlit},
	{nvml.NVLinkCRCData, metadata.AttributeHwGpuNvlinkErrorTypeCrcData},
	{nvml.NVLinkECCData, metadata.AttributeHwGpuNvlinkErrorTypeEccData},
}

// nvlinkRows report each link. A GPU has links 0 to n−1; the first number that it
// refuses ends the question.
func nvlinkRows() []Row {
	rows := make([]Row, 0, 2+len(linkErrors))
	rows = append(rows,
		Row{
			Name: "nvlink.state", metrics: []*Metric{nvlinkState.Metric},
			read: func(d nvml.Device, out *Output) error {
				return eachLink(func(link int) error {
					active, err := d.NVLinkActive(link)
					out.putIf(err == nil, nvlinkState.Of(Flag(active), linkNames[link], 0))
					return err
				})
			},
		},
		Row{Name: "nvlink.io", metrics: []*Metric{nvlinkIO.Metric}, read: readLinkIO})
	for _, e := range &linkErrors {
		rows = append(rows, Row{
			Name: "nvlink.errors." + e.label.String(), metrics: []*Metric{nvlinkErrors.Metric},
			read: func(d nvml.Device, out *Output) error {
				return eachLink(func(link int) error {
					n, err := d.NVLinkErrors(link, e.counter)
					out.putIf(err == nil && n < math.MaxInt64, nvlinkErrors.Of(int64(n), linkNames[link], e.label))
					return err
				})
			},
		})
	}
	return rows
}

// eachLink asks for one link after another. A GPU that refuses link 0 has none.
func eachLink(ask func(link int) error) error {
	for link := range nvml.MaxNVLinks {
		err := ask(link)
		switch {
		case err == nil:
		case link > 0 && (nvml.IsInvalid(err) || nvml.KindOf(err) == nvml.NotSupported):
			return nil
		case nvml.IsInvalid(err):
			return nvml.ErrNotSupported("nvmlDeviceGetNvLinkState")
		default:
			return err
		}
	}
	return nil
}

// readLinkIO asks for all links in one call.
func readLinkIO(d nvml.Device, out *Output) error {
	out.fields = out.fields[:0]
	for link := range uint32(nvml.MaxNVLinks) {
		out.fields = append(out.fields,
			nvml.FieldValue{FieldId: nvml.FieldNVLinkTx, ScopeId: link},
			nvml.FieldValue{FieldId: nvml.FieldNVLinkRx, ScopeId: link})
	}
	if err := d.FieldValues(out.fields); err != nil {
		return err
	}
	for i := range out.fields {
		v := &out.fields[i]
		kib, err := nvml.FieldNumber(v)
		if err != nil && i == 0 {
			return nvml.ErrNotSupported("nvmlDeviceGetFieldValues")
		}
		// An error means that the GPU does not have this link.
		out.putIf(err == nil && kib >= 0 && kib < 1<<52, nvlinkIO.Of(int64(kib)*1024, linkNames[v.ScopeId], directions[i%len(directions)]))
	}
	return nil
}
