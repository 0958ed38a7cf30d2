// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/sampletext"
	"github.com/otelcol-gpu/otelcol-gpu/internal/xid"
)

func logged(m *Machine, seconds float64, text string) {
	m.Logs(sampletext.Logs(at(seconds), node, text), at(seconds))
}

func TestEventsHaveTheirMeaningAndTheirRemedy(t *testing.T) {
	m := newMachine(t)
	logged(m, 1, "hw.gpu.xid{hw.id=GPU-a,hw.gpu.xid=#79}")
	logged(m, 2, "hw.gpu.xid{hw.id=GPU-a,hw.gpu.xid=#31,hw.gpu.event.count=#12}")
	logged(m, 3, "hw.gpu.xid{hw.id=GPU-a,hw.gpu.xid=#45}")
	logged(m, 4, "hw.gpu.state{hw.id=GPU-a,state=lost}")
	logged(m, 5, "hw.gpu.state{hw.id=GPU-a,state=healthy}")
	logged(m, 6, "hw.gpu.event{hw.id=GPU-a,hw.gpu.event.type=poison_fatal}")
	logged(m, 7, "hw.gpu.throttle{hw.id=GPU-a}\ncomfyui.prompt.failed{}\nhw.gpu.event{hw.id=GPU-a,hw.gpu.event.type=new}")
	var shown []string
	for _, e := range m.Events() {
		v := e.View(texts.English, "")
		shown = append(shown, fmt.Sprintf("%s %s | %s", v.Severity, v.Text, v.Remedy))
	}
	assert.Equal(t, []string{
		"fine The driver reported new. | ",
		"fine Faulty data could not be contained: reset the GPU. | ",
		"fine The GPU responds again. | ",
		"broken The GPU is lost: the driver no longer reaches it. | Drain the host and reboot it; if the GPU stays lost, check its seating and power.",
		"fine XID 45: Preemptive cleanup, due to previous errors | No action by itself; check the events before it.",
		"warning XID 31, 12 times: GPU memory page fault | Restart the program that used the GPU; if the error recurs with other programs, suspect the GPU.",
		"broken XID 79: GPU has fallen off the bus | Drain the host and reboot it; if the error recurs, check the GPU's seating, power and cooling.",
	}, shown)
	assert.Equal(t, at(1), m.Events()[6].Time)
	assert.Equal(t, "prompt-1", func() string { e := m.Events()[0]; return e.View(texts.Chinese, "prompt-1").Prompt }())
	rise, _ := m.GPU("GPU-a").Series(XIDRecords, "31", at(8)).Increase(eventWindow, at(8))
	assert.InDelta(t, 12.0, rise, 1e-9)
}

func TestDriverEventsHaveTheSeverityOfTheirRecord(t *testing.T) {
	m := newMachine(t)
	for i, severity := range []plog.SeverityNumber{plog.SeverityNumberInfo, plog.SeverityNumberWarn, plog.SeverityNumberError2} {
		ld := sampletext.Logs(at(float64(i)), node, "hw.gpu.event{hw.id=GPU-a,hw.gpu.event.type=poison_fatal}")
		ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).SetSeverityNumber(severity)
		m.Logs(ld, at(float64(i)))
	}
	assert.Equal(t, view.Broken, m.Events()[0].Severity)
	assert.Equal(t, view.Warning, m.Events()[1].Severity)
	assert.Equal(t, view.Fine, m.Events()[2].Severity)
}

// gpucorrelation sends a record on with the trace of the prompt that ran.
func TestARecordThatComesAgainWithItsTraceIsOneEvent(t *testing.T) {
	m := newMachine(t)
	record := func() plog.Logs { return sampletext.Logs(at(1), node, "hw.gpu.xid{hw.id=GPU-a,hw.gpu.xid=#48}") }
	m.Logs(record(), at(1))
	again := record()
	again.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).SetTraceID(pcommon.TraceID{1})
	m.Logs(again, at(3))
	require.Len(t, m.Events(), 1)
	assert.Equal(t, pcommon.TraceID{1}, m.Events()[0].Trace)
	rise, _ := m.GPU("GPU-a").Series(XIDRecords, "48", at(3)).Increase(eventWindow, at(3))
	assert.InDelta(t, 1.0, rise, 1e-9)
}

func TestTheLastEventsAreHeld(t *testing.T) {
	m := newMachine(t, func(l *Limits) { l.Events = 10 })
	for i := range 25 {
		logged(m, float64(i), "hw.gpu.xid{hw.id=GPU-a,hw.gpu.xid=#31}")
	}
	require.Len(t, m.Events(), 10)
	assert.Equal(t, at(24), m.Events()[0].Time)
	assert.Equal(t, at(15), m.Events()[9].Time)
	assert.Equal(t, int64(15), m.Dropped()["event"])
}

// The page and the log records of the nvml receiver say the same of an XID.
func TestTheTextsAreThoseOfTheCatalogue(t *testing.T) {
	c, err := xid.Load()
	require.NoError(t, err)
	for tier, meaning := range c.Tiers {
		assert.Equal(t, meaning.Advice, texts.Message{Key: "xid.remedy." + string(tier)}.In(texts.English), tier)
	}
	known := map[string]bool{}
	for _, kind := range driverEvents {
		known[kind] = true
	}
	for kind, meaning := range c.Events {
		assert.True(t, known[kind], kind)
		sentence := strings.ToUpper(meaning.Advice[:1]) + meaning.Advice[1:] + "."
		assert.Equal(t, sentence, texts.Message{Key: "event.driver." + kind}.In(texts.English), kind)
	}
	for _, key := range []string{"event.state.healthy", "event.state.unresponsive", "event.state.lost", "event.state.lost.remedy", "event.state.unresponsive.remedy", "event.state.unknown"} {
		assert.Contains(t, texts.Keys(texts.English), key)
	}
	for _, reason := range append([]string{"other"}, throttleReasons...) {
		assert.Contains(t, texts.Keys(texts.English), "prompt.throttle."+reason)
	}
}
