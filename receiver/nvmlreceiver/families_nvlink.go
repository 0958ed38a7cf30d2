// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"math"
	"strconv"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

// linkNames are the numbers of the links as text.
var linkNames = func() (names [nvml.MaxNVLinks]string) {
	for i := range names {
		names[i] = strconv.Itoa(i)
	}
	return names
}()

// linkErrors are the counters of a link.
var linkErrors = [...]struct {
	counter   nvml.NVLinkError
	attribute metadata.AttributeHwGpuNvlinkErrorType
}{
	{nvml.NVLinkReplay, metadata.AttributeHwGpuNvlinkErrorTypeReplay},
	{nvml.NVLinkRecovery, metadata.AttributeHwGpuNvlinkErrorTypeRecovery},
	{nvml.NVLinkCRCFlit, metadata.AttributeHwGpuNvlinkErrorTypeCrcFlit},
	{nvml.NVLinkCRCData, metadata.AttributeHwGpuNvlinkErrorTypeCrcData},
	{nvml.NVLinkECCData, metadata.AttributeHwGpuNvlinkErrorTypeEccData},
}

// nvlinkFamilies tell of each link. A GPU has links 0 to n−1; the first number
// that it does not know ends the question.
func nvlinkFamilies() []family {
	rows := make([]family, 0, 2+len(linkErrors))
	rows = append(rows,
		family{
			name: "nvlink.state", needs: "nvmlDeviceGetNvLinkState",
			metrics: []metric{{
				func(c *metadata.MetricsConfig) bool { return c.HwGpuNvlinkState.Enabled },
				func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
					mb.RecordHwGpuNvlinkStateDataPoint(ts, s.integer, s.text, c.id, c.name)
				},
			}},
			read: func(d nvml.Device, out *sheet) error {
				return eachLink(func(link int) error {
					active, err := d.NVLinkActive(link)
					if err == nil {
						out.link(0, link, truth(active))
					}
					return err
				})
			},
		},
		family{
			name: "nvlink.io", needs: "nvmlDeviceGetFieldValues",
			metrics: []metric{{
				func(c *metadata.MetricsConfig) bool { return c.HwGpuNvlinkIo.Enabled },
				func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
					mb.RecordHwGpuNvlinkIoDataPoint(ts, s.integer, s.text, c.id, c.name, metadata.AttributeNetworkIoDirection(s.attribute))
				},
			}},
			read: readLinkIO,
		})
	for _, e := range &linkErrors {
		rows = append(rows, family{
			name: "nvlink.errors." + e.attribute.String(), needs: "nvmlDeviceGetNvLinkErrorCounter",
			metrics: []metric{{
				func(c *metadata.MetricsConfig) bool { return c.HwGpuNvlinkErrors.Enabled },
				func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
					mb.RecordHwGpuNvlinkErrorsDataPoint(ts, s.integer, metadata.AttributeHwGpuNvlinkErrorType(s.attribute), s.text, c.id, c.name)
				},
			}},
			read: func(d nvml.Device, out *sheet) error {
				return eachLink(func(link int) error {
					n, err := d.NVLinkErrors(link, e.counter)
					if err == nil && n < math.MaxInt64 {
						out.link(int(e.attribute), link, int64(n))
					}
					return err
				})
			},
		})
	}
	return rows
}

// link records a value of one link; the row has one metric.
func (s *sheet) link(attribute, link int, v int64) {
	to := s.series(0, attribute)
	to.text = linkNames[link]
	s.samples = append(s.samples, sample{series: to, integer: v})
}

// eachLink asks about link after link. A GPU that does not know link 0 has none.
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
func readLinkIO(d nvml.Device, out *sheet) error {
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
		if err := nvml.FieldError(v); err != nil {
			if i == 0 {
				return nvml.ErrNotSupported("nvmlDeviceGetFieldValues")
			}
			continue // no such link
		}
		if kib := nvml.FieldNumber(v); kib >= 0 && kib < 1<<52 {
			out.link(int(directions[i%len(directions)]), int(v.ScopeId), int64(kib)*1024)
		}
	}
	return nil
}

func truth(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
