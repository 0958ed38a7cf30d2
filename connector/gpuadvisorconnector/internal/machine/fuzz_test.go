// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"encoding/binary"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/growth"
)

// tape hands out the bytes of a fuzzer's input.
type tape []byte

func (b *tape) byte() byte {
	if len(*b) == 0 {
		return 0
	}
	first := (*b)[0]
	*b = (*b)[1:]
	return first
}

func (b *tape) value() float64 {
	switch kind := b.byte(); kind % 6 {
	case 0:
		return math.NaN()
	case 1:
		return math.Inf(1)
	case 2:
		return -math.MaxFloat64
	case 3:
		return math.MaxFloat64
	default:
		var bits [8]byte
		for i := range bits {
			bits[i] = b.byte()
		}
		return math.Float64frombits(binary.LittleEndian.Uint64(bits[:]))
	}
}

func (b *tape) time() time.Time {
	switch n := b.byte(); n % 8 {
	case 0:
		return time.Unix(0, 0)
	case 1:
		return time.Unix(0, math.MaxInt64)
	case 2:
		return at(-float64(b.byte()) * 100)
	default:
		return at(float64(n)*20 + float64(b.byte()))
	}
}

func (b *tape) attributes(to pcommon.Map) {
	for range b.byte() % 5 {
		keys := []string{"hw.id", "hw.name", "process.pid", "hw.gpu.xid", "hw.gpu.task", "comfyui.task_class", "state", "hw.state", "error.type", "hw.gpu.event.count", "hw.gpu.event.type", "hw.gpu.throttle.reason"}
		key := keys[int(b.byte())%len(keys)]
		switch n := b.byte(); n % 5 {
		case 0:
			to.PutInt(key, int64(b.byte())-3)
		case 1:
			to.PutStr(key, strings.Repeat("\xff{a}", int(b.byte())))
		case 2:
			to.PutEmptySlice(key)
		case 3:
			to.PutStr(key, "general")
		default:
			to.PutStr(key, string(rune('a'+n%7)))
		}
	}
}

func (b *tape) metrics() pmetric.Metrics {
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	b.attributes(rm.Resource().Attributes())
	ms := rm.ScopeMetrics().AppendEmpty().Metrics()
	for range b.byte() % 6 {
		m := ms.AppendEmpty()
		m.SetName(table[int(b.byte())%len(table)].metric)
		switch b.byte() % 5 {
		case 0:
			p := m.SetEmptyHistogram().DataPoints().AppendEmpty()
			p.SetTimestamp(pcommon.NewTimestampFromTime(b.time()))
			p.SetSum(b.value())
			p.SetCount(uint64(b.byte()))
			b.attributes(p.Attributes())
			continue
		case 1:
			m.SetEmptySummary().DataPoints().AppendEmpty()
			continue
		case 2:
			m.SetEmptySum()
		default:
			m.SetEmptyGauge()
		}
		var points pmetric.NumberDataPointSlice
		if m.Type() == pmetric.MetricTypeSum {
			points = m.Sum().DataPoints()
		} else {
			points = m.Gauge().DataPoints()
		}
		for range b.byte() % 4 {
			p := points.AppendEmpty()
			p.SetTimestamp(pcommon.NewTimestampFromTime(b.time()))
			p.SetDoubleValue(b.value())
			p.SetFlags(pmetric.DefaultDataPointFlags.WithNoRecordedValue(b.byte()%4 == 0))
			b.attributes(p.Attributes())
		}
	}
	return md
}

func (b *tape) logs() plog.Logs {
	ld := plog.NewLogs()
	records := ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords()
	for range b.byte() % 4 {
		r := records.AppendEmpty()
		r.SetEventName([]string{"hw.gpu.xid", "hw.gpu.state", "hw.gpu.event", "other"}[b.byte()%4])
		r.SetTimestamp(pcommon.NewTimestampFromTime(b.time()))
		r.SetSeverityNumber(plog.SeverityNumber(b.byte()))
		b.attributes(r.Attributes())
	}
	return ld
}

// FuzzMachine feeds pdata that no receiver would send, and holds what is shown against what
// must always be so.
func FuzzMachine(f *testing.F) {
	f.Add([]byte("\x03\x00\x01\x05hw.gpu.memory"))
	f.Add([]byte(strings.Repeat("\x04\x02\x09\x01\x03\x07", 60)))
	catalogue := newMachine(f).catalogue
	f.Fuzz(func(t *testing.T, input []byte) {
		m := &Machine{
			limits: Limits{GPUs: 3, Processes: 3, Servers: 2, Events: 4, History: 2 * time.Minute},
			gpus:   map[string]*GPU{}, servers: map[string]*Server{}, dropped: map[string]int64{}, catalogue: catalogue,
		}
		b := tape(input[:min(len(input), 4096)])
		for len(b) > 0 {
			now := b.time()
			switch b.byte() % 4 {
			case 0:
				m.Logs(b.logs(), now)
			case 1:
				m.MemoryRead(string(rune('a'+b.byte()%7)), int64(b.value()), b.time())
				m.ServerProcess("ComfyUI", int64(b.byte()))
			default:
				m.Metrics(b.metrics(), now)
			}
			require.NoError(t, growth.Within(m.Bounds()))
			for _, g := range m.GPUs() {
				v := m.View(g, texts.Chinese, now)
				if p := v.Memory; p != nil {
					require.Equal(t, p.Limit, p.Needed+p.Elastic+p.Other+p.Free)
					require.GreaterOrEqual(t, min(p.Needed, p.Elastic, p.Other, p.Free), int64(0))
				}
				for _, share := range v.Throttling {
					require.LessOrEqual(t, share.Share, 1.0)
				}
				h, _ := m.History(g.ID, now)
				require.Len(t, h.Memory, len(h.Times))
			}
			for _, s := range m.Servers() {
				m.ServerView(s, now)
			}
			require.LessOrEqual(t, len(m.Events()), 4)
		}
	})
}
