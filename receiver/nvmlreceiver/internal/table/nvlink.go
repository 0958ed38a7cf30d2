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

// links are the NVLinks that a GPU was found to have.
type links struct {
	known bool
	count int
}

// find counts the GPU's links, once: a GPU has links 0 to n−1, and the first number that it
// refuses ends the question. Only the state can be asked for: field values are answered for
// links that do not exist, too. A GPU without links does not support what is read of them.
func (l *links) find(d nvml.Device) (int, error) {
	for link := 0; !l.known; link++ {
		if link < nvml.MaxNVLinks {
			_, err := d.NVLinkActive(link)
			if err == nil {
				continue
			}
			if !nvml.IsInvalid(err) && !nvml.IsUnsupported(err) {
				return 0, err
			}
		}
		l.known, l.count = true, link
	}
	if l.count == 0 {
		return 0, nvml.ErrNotSupported("nvmlDeviceGetNvLinkState")
	}
	return l.count, nil
}

// nvlinkRows report each link.
func nvlinkRows() []Row {
	rows := make([]Row, 0, 2+len(linkErrors))
	rows = append(rows,
		Row{
			Name: "nvlink.state", Every: linkInterval, metrics: []*Metric{nvlinkState.Metric},
			read: func(d nvml.Device, out *Output) error {
				return eachLink(d, out, func(link int) error {
					active, err := d.NVLinkActive(link)
					out.putIf(err == nil, nvlinkState.Of(Flag(active), linkNames[link], 0))
					return err
				})
			},
		},
		Row{Name: "nvlink.io", metrics: []*Metric{nvlinkIO.Metric}, read: readLinkIO})
	for _, e := range &linkErrors {
		rows = append(rows, Row{
			Name: "nvlink.errors." + e.label.String(), Every: linkInterval, metrics: []*Metric{nvlinkErrors.Metric},
			read: func(d nvml.Device, out *Output) error {
				return eachLink(d, out, func(link int) error {
					n, err := d.NVLinkErrors(link, e.counter)
					out.putIf(err == nil && n < math.MaxInt64, nvlinkErrors.Of(int64(n), linkNames[link], e.label))
					return err
				})
			},
		})
	}
	return rows
}

// eachLink asks for one of the GPU's links after another.
func eachLink(d nvml.Device, out *Output, ask func(link int) error) error {
	count, err := out.links.find(d)
	for link := 0; err == nil && link < count; link++ {
		err = ask(link)
	}
	return err
}

// readLinkIO asks for all links in one call.
func readLinkIO(d nvml.Device, out *Output) error {
	count, err := out.links.find(d)
	if err != nil {
		return err
	}
	out.fields = out.fields[:0]
	for link := range uint32(count) {
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
		out.putIf(err == nil && kib >= 0 && kib < 1<<52, nvlinkIO.Of(int64(kib)*1024, linkNames[v.ScopeId], directions[i%len(directions)]))
	}
	return nil
}
