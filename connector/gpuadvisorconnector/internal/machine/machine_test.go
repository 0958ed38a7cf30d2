// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/sampletext"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	gib     = int64(1) << 30
	node    = "host.name=node-1"
	comfyui = "host.name=node-1,service.name=comfyui,service.instance.id=node-1:8188"
)

var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// at is a time in seconds after the epoch.
func at(seconds float64) time.Time { return epoch.Add(time.Duration(seconds * 1e9)) }

func newMachine(t testing.TB, change ...func(*Limits)) *Machine {
	t.Helper()
	limits := DefaultLimits()
	for _, c := range change {
		c(&limits)
	}
	m, err := New(limits)
	require.NoError(t, err)
	return m
}

// scrape adds samples of gpu0; {} stands for its attributes.
func scrape(m *Machine, seconds float64, text string) {
	text = strings.ReplaceAll(text, "{", "{hw.id=GPU-a,hw.name=gpu0,")
	m.Metrics(sampletext.Metrics(at(seconds), node, text), at(seconds))
}

// serve adds samples of a ComfyUI server.
func serve(m *Machine, seconds float64, text string) {
	m.Metrics(sampletext.Metrics(at(seconds), comfyui, text), at(seconds))
}

func TestAGPUIsShownWithAllThatMetricsSay(t *testing.T) {
	m := newMachine(t)
	const whole = `
		hw.gpu.info{hw.model=RTX 4090,gpu.simulated=true} 1
		hw.gpu.state{hw.state=healthy} 1
		hw.gpu.state{hw.state=lost} 0
		hw.gpu.memory.limit{} 25769803776
		hw.gpu.memory.reserved{} 1073741824
		hw.gpu.memory.usage{} %d
		hw.gpu.memory.usage.max{} %d
		hw.gpu.utilization{hw.gpu.task=general} 0.87
		hw.gpu.utilization{hw.gpu.task=encoder} 0.11
		hw.temperature{hw.sensor_location=gpu} 71
		hw.temperature{hw.sensor_location=memory} 90
		hw.temperature.limit{hw.limit_type=high.degraded} 88
		hw.temperature.limit{hw.limit_type=high.critical} 95
		hw.power{hw.gpu.power.scope=instant} 310
		hw.power{hw.gpu.power.scope=average} 300
		hw.gpu.power.limit{hw.limit_type=enforced} 450
		hw.gpu.power.limit{hw.limit_type=max} 600
		hw.gpu.throttle.time{hw.gpu.throttle.reason=sw_power_cap} %v
		hw.gpu.throttle.time{hw.gpu.throttle.reason=sw_thermal} %v
		hw.gpu.throttle.time{hw.gpu.throttle.reason=hw_thermal} 5
		hw.gpu.process.memory.usage{process.pid=17,process.executable.name=python} 8589934592
		hw.gpu.process.memory.usage{process.pid=18,process.executable.name=blender,k8s.pod.name=render-2} 1073741824`
	serve(m, 0, "comfyui.up 1\ncomfyui.memory.elastic{hw.id=GPU-a} 2147483648\ncomfyui.queue.length{state=running} 1\ncomfyui.queue.length{state=pending} 4\ncomfyui.queue.oldest.wait 6.5\ncomfyui.proxy.sockets{state=client} 3\ncomfyui.proxy.sockets{state=kept} 1")
	m.ServerProcess("node-1:8188", 17)
	for i := range 5 {
		used := 10 * gib
		if i == 1 {
			used = 12 * gib
		}
		scrape(m, float64(15*i), fmt.Sprintf(whole, used, used+gib, 1.8*float64(i), 0.9*float64(i)))
	}
	now := at(61)
	require.Len(t, m.GPUs(), 1)
	v := m.View(m.GPUs()[0], texts.English, now)
	assert.Equal(t, "GPU-a", v.ID)
	assert.Equal(t, "gpu0", v.Name)
	assert.Equal(t, "RTX 4090", v.Model)
	assert.Equal(t, Healthy, v.State)
	assert.True(t, v.Simulated)
	assert.Equal(t, at(60), v.Newest)
	require.NotNil(t, v.Memory)
	assert.Equal(t, 24*gib, v.Memory.Limit)
	assert.Equal(t, 10*gib, v.Memory.Used)
	assert.Equal(t, 6*gib, v.Memory.Needed, "ComfyUI's 8, less what it would evict")
	assert.Equal(t, 2*gib, v.Memory.Elastic)
	assert.Equal(t, 3*gib, v.Memory.Other, "blender, a GiB that no process is known of, the reserve")
	assert.Equal(t, 13*gib, v.Memory.Free)
	assert.Equal(t, 13*gib, v.Memory.Peak, "the sampler saw more than the scrapes")
	assert.Equal(t, at(15), v.Memory.PeakTime)
	require.NotNil(t, v.Utilization)
	assert.InDelta(t, 0.87, *v.Utilization, 0)
	assert.InDelta(t, 71.0, v.Temperature.Value, 1e-9)
	assert.InDelta(t, 88.0, *v.Temperature.Limit, 1e-9)
	assert.InDelta(t, 310.0, v.Power.Value, 1e-9)
	assert.InDelta(t, 450.0, *v.Power.Limit, 1e-9)
	require.Len(t, v.Throttling, 2, "a counter that does not rise is not shown")
	assert.Equal(t, "sw_power_cap", v.Throttling[0].Reason)
	assert.Equal(t, "power limit", v.Throttling[0].Text)
	assert.InDelta(t, 0.12, v.Throttling[0].Share, 0.001)
	assert.InDelta(t, 0.06, v.Throttling[1].Share, 0.001)
	require.Len(t, v.Processes, 2)
	assert.Equal(t, int64(17), v.Processes[0].PID)
	assert.Equal(t, "node-1:8188", v.Processes[0].Server)
	assert.Equal(t, "render-2", v.Processes[1].Pod)
	assert.Empty(t, v.Processes[1].Server)
	assert.Equal(t, "功耗上限", m.View(m.GPUs()[0], texts.Chinese, now).Throttling[0].Text)

	require.Len(t, m.Servers(), 1)
	s := m.ServerView(m.Servers()[0], now)
	assert.Equal(t, "node-1:8188", s.Name)
	assert.True(t, s.IsUp)
	assert.Equal(t, []string{"GPU-a"}, s.GPUs)
	assert.Equal(t, 1, s.Running)
	assert.Equal(t, 4, s.Waiting)
	assert.InDelta(t, 6.5, s.OldestWait, 1e-9)
	assert.Equal(t, 4, s.SocketsOpen)
	assert.Equal(t, "node-1", m.Host())
	assert.True(t, m.Simulated())
}

func TestTheOldestWaitIsKnownBetweenTwoScrapes(t *testing.T) {
	m := newMachine(t)
	m.Waiting("node-1:8188", time.Second, at(0))
	assert.Empty(t, m.Servers(), "its metrics come first")
	serve(m, 1, "comfyui.up 1\ncomfyui.queue.oldest.wait 0")
	m.Waiting("node-1:8188", 6500*time.Millisecond, at(2))
	assert.InDelta(t, 6.5, m.ServerView(m.Servers()[0], at(3)).OldestWait, 1e-9)
	m.Waiting("node-1:8188", time.Second, at(1.5))
	assert.InDelta(t, 6.5, m.ServerView(m.Servers()[0], at(3)).OldestWait, 1e-9, "the newer one counts")
}

func TestWhatIsNotKnownIsAbsent(t *testing.T) {
	m := newMachine(t)
	scrape(m, 0, "hw.gpu.memory.usage{} 1")
	v := m.View(m.GPU("GPU-a"), texts.English, at(1))
	assert.Nil(t, v.Memory, "the limit is not known")
	assert.Nil(t, v.Utilization)
	assert.Nil(t, v.Temperature)
	assert.Nil(t, v.Power)
	assert.Nil(t, v.Throttling)
	assert.Nil(t, v.Recent.Utilization)
	assert.Equal(t, Healthy, v.State)
}

// The history has the digits of a float32.
func TestThePeakIsNotWhatRoundingMakesOfIt(t *testing.T) {
	for _, used := range []int64{46373567201, 46373569999} {
		m := newMachine(t)
		scrape(m, 0, fmt.Sprintf("hw.gpu.memory.limit{} 48305799168\nhw.gpu.memory.usage{} %d", used))
		assert.Equal(t, used, m.View(m.GPU("GPU-a"), texts.English, at(1)).Memory.Peak)
	}
}

func TestTheLimitOfTheTemperatureMayBeAMargin(t *testing.T) {
	m := newMachine(t)
	scrape(m, 0, "hw.temperature{hw.sensor_location=gpu} 60\nhw.gpu.temperature.margin{} 27")
	assert.InDelta(t, 87.0, *m.View(m.GPU("GPU-a"), texts.English, at(1)).Temperature.Limit, 1e-9)
}

func TestServersWithoutAKnownProcessCountByWhatTheyReport(t *testing.T) {
	m := newMachine(t)
	scrape(m, 0, "hw.gpu.memory.limit{} 1000\nhw.gpu.memory.usage{} 700")
	serve(m, 0, "comfyui.torch.memory.limit{hw.id=GPU-a} 300\ncomfyui.memory.outside{hw.id=GPU-a} 150\ncomfyui.memory.elastic{hw.id=GPU-a} 100")
	v := m.View(m.GPU("GPU-a"), texts.English, at(1)).Memory
	assert.Equal(t, int64(350), v.Needed)
	assert.Equal(t, int64(100), v.Elastic)
	assert.Equal(t, int64(250), v.Other)
	assert.Equal(t, int64(300), v.Free)
}

// Whatever a driver reports, the parts of the bar add up.
func TestThePartsOfMemoryAddUp(t *testing.T) {
	for _, figures := range [][5]float64{{100, 90, 20, 0, 0}, {100, 200, 0, 50, 500}, {100, 50, 0, 80, 10}, {100, -5, 0, -3, 5}, {100, 100, 100, 100, 100}} {
		m := newMachine(t)
		scrape(m, 0, fmt.Sprintf("hw.gpu.memory.limit{} %v\nhw.gpu.memory.usage{} %v\nhw.gpu.memory.reserved{} %v\nhw.gpu.process.memory.usage{process.pid=7} %v", figures[0], figures[1], figures[2], figures[4]))
		serve(m, 0, fmt.Sprintf("comfyui.memory.elastic{hw.id=GPU-a} %v", figures[3]))
		m.ServerProcess("node-1:8188", 7)
		v := m.View(m.GPU("GPU-a"), texts.English, at(0)).Memory
		assert.Equal(t, v.Limit, v.Needed+v.Elastic+v.Other+v.Free, "%v", figures)
		for _, part := range []int64{v.Needed, v.Elastic, v.Other, v.Free} {
			assert.GreaterOrEqual(t, part, int64(0), "%v", figures)
		}
		assert.GreaterOrEqual(t, v.Peak, v.Used)
	}
}

func TestTheNewerOfTwoReceiversCounts(t *testing.T) {
	m := newMachine(t)
	scrape(m, 0, "hw.gpu.memory.limit{} 100")
	scrape(m, 10, "hw.gpu.memory.usage{} 50") // nvml/fast
	m.Metrics(sampletext.Metrics(at(9.9), node, "hw.gpu.memory.usage{hw.id=GPU-a} 10"), at(10.1))
	assert.Equal(t, int64(50), m.View(m.GPU("GPU-a"), texts.English, at(11)).Memory.Used)
	assert.Empty(t, m.Dropped(), "nothing is lost")
	m.MemoryRead("GPU-a", 60, at(10.4))
	m.MemoryRead("GPU-a", 70, at(10.2))
	m.MemoryRead("GPU-unknown", 70, at(10.2))
	v := m.View(m.GPU("GPU-a"), texts.English, at(11))
	assert.Equal(t, int64(60), v.Memory.Used)
	assert.Equal(t, at(10.4), v.Newest)
	require.Len(t, m.GPUs(), 1)
}

func TestASeriesThatIsMarkedAsStaleEnds(t *testing.T) {
	m := newMachine(t)
	scrape(m, 0, "hw.gpu.memory.limit{} 100\nhw.gpu.memory.usage{} 50\nhw.gpu.state{hw.state=lost} 1\nhw.gpu.process.memory.usage{process.pid=7} 5")
	scrape(m, 15, "hw.gpu.memory.limit{} stale\nhw.gpu.memory.usage{} stale\nhw.gpu.state{hw.state=lost} 1\nhw.gpu.process.memory.usage{process.pid=7} stale")
	v := m.View(m.GPU("GPU-a"), texts.English, at(16))
	assert.Nil(t, v.Memory)
	assert.Empty(t, v.Processes)
	assert.Equal(t, Lost, v.State)
	m.Metrics(sampletext.Metrics(at(14), node, "hw.gpu.memory.usage{hw.id=GPU-a} 10"), at(16))
	_, known := m.GPU("GPU-a").Value(MemoryUsed, "", at(16))
	assert.False(t, known, "a late sample does not bring it back")
	scrape(m, 30, "hw.gpu.state{hw.state=lost} stale")
	assert.Empty(t, m.GPUs(), "a GPU without any series has vanished")
	require.NotNil(t, m.GPU("GPU-a"))
	serve(m, 200, "comfyui.up 1")
	assert.Nil(t, m.GPU("GPU-a"), "and is forgotten")
}

func TestSamplesThatStopMakeAGPUUnknown(t *testing.T) {
	m := newMachine(t)
	scrape(m, 0, "hw.gpu.memory.limit{} 100\nhw.gpu.state{hw.state=healthy} 1")
	assert.Equal(t, Healthy, m.GPU("GPU-a").Condition(at(200)), "how often there is a scrape is not known")
	scrape(m, 60, "hw.gpu.memory.limit{} 100\nhw.gpu.state{hw.state=healthy} 1")
	assert.Equal(t, Healthy, m.GPU("GPU-a").Condition(at(205)))
	assert.Equal(t, Unknown, m.GPU("GPU-a").Condition(at(211)), "two and a half scrapes of a minute")
	assert.Len(t, m.GPUs(), 1)
	m.MemoryRead("GPU-a", 1, at(210))
	assert.Equal(t, Healthy, m.GPU("GPU-a").Condition(at(211)))
	_, known := m.GPU("GPU-a").Value(MemoryLimit, "", at(60+301))
	assert.False(t, known, "no value counts for more than five minutes")
}

func TestMIGDevicesAreDevices(t *testing.T) {
	m := newMachine(t)
	for _, name := range []string{"gpu10", "gpu2", "gpu2/mig1", "gpu2/mig0", "gpu0"} {
		m.Metrics(sampletext.Metrics(at(0), node, fmt.Sprintf("hw.gpu.memory.usage{hw.id=id-%s,hw.name=%s} 1\nhw.gpu.info{hw.id=id-%s,hw.parent=P} 1", name, name, name)), at(0))
	}
	var order []string
	for _, g := range m.GPUs() {
		order = append(order, g.Name)
	}
	assert.Equal(t, []string{"gpu0", "gpu2", "gpu2/mig0", "gpu2/mig1", "gpu10"}, order)
	assert.Equal(t, "P", m.GPU("id-gpu2/mig1").Parent)
}

func TestACounterThatBeginsAgainHasNotFallen(t *testing.T) {
	m := newMachine(t)
	for i, v := range []float64{100, 101, 1, 2} { // 100 is from before the first sample
		scrape(m, float64(15*i), fmt.Sprintf("hw.gpu.pcie.replays{} %v", v))
	}
	s := m.GPU("GPU-a").Series(PCIeReplays, "", at(46))
	rise, span := s.Increase(15*time.Minute, at(46))
	assert.InDelta(t, 3.0, rise, 1e-9)
	assert.Equal(t, 45*time.Second, span)
	rate, ok := s.Rate(15*time.Minute, at(46))
	require.True(t, ok)
	assert.InDelta(t, 3.0/900, rate, 1e-9, "over the window, as in Prometheus")
}

func TestARateNeedsTwoPointsAndLooksNoFurtherThanItsWindow(t *testing.T) {
	m := newMachine(t)
	scrape(m, 0, "hw.gpu.pcie.replays{} 0")
	_, ok := m.GPU("GPU-a").Series(PCIeReplays, "", at(1)).Rate(time.Minute, at(1))
	assert.False(t, ok)
	for i := 1; i <= 400; i++ { // 5 a scrape for 10 minutes, then 1
		rise := 5.0
		total := rise * float64(min(i, 40))
		total += float64(max(i-40, 0))
		scrape(m, float64(15*i), fmt.Sprintf("hw.gpu.pcie.replays{} %v", total))
	}
	rate, ok := m.GPU("GPU-a").Series(PCIeReplays, "", at(6000)).Rate(15*time.Minute, at(6000))
	require.True(t, ok)
	assert.InDelta(t, 1.0/15, rate, 0.001)
}

// Only the ends of the time in which it stands still are held.
func TestACounterThatStoodStillForLongRisesAtItsRate(t *testing.T) {
	m := newMachine(t)
	for i := range 400 {
		scrape(m, float64(15*i), "hw.gpu.pcie.replays{} 7")
	}
	s := m.GPU("GPU-a").Series(PCIeReplays, "", at(6000))
	assert.Len(t, s.points, 2)
	scrape(m, 6000, "hw.gpu.pcie.replays{} 97")
	rate, ok := s.Rate(15*time.Minute, at(6000))
	require.True(t, ok)
	assert.InDelta(t, 0.1, rate, 1e-9)
	_, span := s.Increase(15*time.Minute, at(6000))
	assert.Equal(t, 15*time.Minute, span)
}

func TestXIDsOfMetricsCountFromZero(t *testing.T) {
	m := newMachine(t)
	scrape(m, 0, "hw.gpu.xid.errors{hw.gpu.xid=48} 2")
	rise, _ := m.GPU("GPU-a").Series(XIDErrors, "48", at(1)).Increase(time.Hour, at(1))
	assert.InDelta(t, 2.0, rise, 1e-9, "the receiver initialises them to 0")
	for i := 1; i <= 300; i++ {
		scrape(m, float64(15*i), "hw.gpu.xid.errors{hw.gpu.xid=48} 2")
	}
	rise, _ = m.GPU("GPU-a").Series(XIDErrors, "48", at(4500)).Increase(time.Hour, at(4500))
	assert.Zero(t, rise)
}

func TestAClockThatIsSetBackIsNoticed(t *testing.T) {
	m := newMachine(t)
	for i := range 20 {
		scrape(m, float64(1000+i), "hw.gpu.memory.limit{} 100\nhw.gpu.memory.usage{} 50\nhw.gpu.pcie.replays{} 7")
		serve(m, float64(1000+i), "comfyui.up 1")
	}
	scrape(m, 100, "hw.gpu.memory.limit{} 100\nhw.gpu.memory.usage{} 20\nhw.gpu.pcie.replays{} 7")
	v := m.View(m.GPU("GPU-a"), texts.English, at(100))
	require.NotNil(t, v.Memory)
	assert.Equal(t, int64(20), v.Memory.Used)
	assert.Equal(t, int64(20), v.Memory.Peak, "that of another time")
	assert.Equal(t, at(100), v.Newest)
	assert.Equal(t, int64(1), m.Dropped()["history"])
	assert.Len(t, m.Servers(), 1)
	h, ok := m.History("GPU-a", at(100))
	require.True(t, ok)
	assert.Len(t, h.Times, 1)
	scrape(m, 115, "hw.gpu.pcie.replays{} 8")
	rise, _ := m.GPU("GPU-a").Series(PCIeReplays, "", at(115)).Increase(time.Hour, at(115))
	assert.InDelta(t, 1.0, rise, 1e-9)
}

func TestSamplesOfTheFutureAndInvalidOnesAreDropped(t *testing.T) {
	m := newMachine(t)
	m.Metrics(sampletext.Metrics(at(100), node, "hw.gpu.memory.usage{hw.id=GPU-a} 1"), at(0))
	assert.Empty(t, m.GPUs())
	assert.Equal(t, int64(1), m.Dropped()["future"])
	m.Metrics(sampletext.Metrics(at(4), node, "hw.gpu.memory.usage{hw.id=GPU-a} 1"), at(0))
	assert.Len(t, m.GPUs(), 1, "a little ahead is well")
	md := sampletext.Metrics(at(0), node, "hw.gpu.memory.usage{hw.id=GPU-b} 1\nhw.power{hw.id=GPU-b} 1")
	ms := md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics()
	ms.At(0).Gauge().DataPoints().At(0).SetDoubleValue(math.NaN())
	ms.At(1).Gauge().DataPoints().At(0).SetDoubleValue(math.Inf(1))
	m.Metrics(md, at(0))
	assert.Nil(t, m.GPU("GPU-b"))
	assert.Equal(t, int64(2), m.Dropped()["invalid"])
}

func TestExecutionsAreAddedUpByTaskClass(t *testing.T) {
	m := newMachine(t)
	serve(m, 0, "comfyui.execution.duration{comfyui.task_class=people,comfyui.model=a} 10/5\ncomfyui.execution.duration{comfyui.task_class=people,comfyui.model=b} 2/1\ncomfyui.execution.duration{comfyui.task_class=batch} 7/1")
	serve(m, 15, "comfyui.execution.duration{comfyui.task_class=people,comfyui.model=a} 14/7\ncomfyui.execution.duration{comfyui.task_class=people,comfyui.model=b} 6/2\ncomfyui.execution.duration{comfyui.task_class=batch} 7/1")
	s := m.Servers()[0]
	seconds, _ := s.Series(ExecutionSeconds, "people", at(15)).Increase(24*time.Hour, at(15))
	count, _ := s.Series(Executions, "people", at(15)).Increase(24*time.Hour, at(15))
	assert.InDelta(t, 20.0, seconds, 1e-9)
	assert.InDelta(t, 9.0, count, 1e-9)
	assert.Len(t, s.series[Executions], 2)
}

// Other services of the pipeline are in containers, with host names of their own.
func TestTheHostIsThatOfTheGPUs(t *testing.T) {
	m := newMachine(t)
	scrape(m, 0, "hw.gpu.memory.usage{} 1")
	m.Metrics(sampletext.Metrics(at(1), "host.name=4f1c0d2e,service.name=photos", "http.server.requests 5"), at(1))
	m.Metrics(sampletext.Metrics(at(1), "host.name=4f1c0d2e,service.instance.id=photos", "comfyui.up 1"), at(1))
	assert.Equal(t, "node-1", m.Host())
}

// The marker of its end may be lost with the receiver.
func TestAProcessThatIsNoLongerListedIsForgotten(t *testing.T) {
	m := newMachine(t)
	scrape(m, 0, "hw.gpu.memory.usage{} 1\nhw.gpu.process.memory.usage{process.pid=1} 1")
	for s := 60.0; s <= 420; s += 60 {
		scrape(m, s, "hw.gpu.memory.usage{} 1\nhw.gpu.process.memory.usage{process.pid=2} 1")
	}
	p, ok := m.Largest(m.GPUs()[0])
	require.True(t, ok)
	assert.EqualValues(t, 2, p.PID)
	assert.Len(t, m.View(m.GPUs()[0], texts.English, at(420)).Processes, 1)
}
