// SPDX-License-Identifier: Apache-2.0

package causes

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
	"github.com/otelcol-gpu/otelcol-gpu/internal/advice"
)

// fail ends a prompt for which there was not enough memory.
func (w *world) fail(side int64) {
	w.prompt(func(p *Prompt) { p.Outcome, p.ErrorType, p.Side = failed, outOfMemory, side })
}

func TestOutOfMemoryNamesTheSizeAndASmallerOne(t *testing.T) {
	for name, c := range map[string]struct {
		prompts func(w *world)
		text    string
		remedy  string
	}{
		"one size": {func(w *world) { w.fail(1280); w.fail(1280); w.fail(1280) },
			"gpu1 ran out of memory for 3 images of 1280 px in the last minute.", "Lower the size to 1024 px."},
		"one image": {func(w *world) { w.fail(1024) },
			"gpu1 ran out of memory for 1 image of 1024 px in the last minute.", "Lower the size to 768 px."},
		"several sizes": {func(w *world) { w.fail(1280); w.fail(2048) },
			"gpu1 ran out of memory for 2 images of 1280 to 2048 px in the last minute.", "Lower the size to 1024 px."},
		"a larger one succeeded": {func(w *world) {
			w.fail(1280)
			w.prompt(func(p *Prompt) { p.Side = 1152 })
			w.prompt(func(p *Prompt) { p.Side = 2048 }) // with another workflow
		},
			"gpu1 ran out of memory for 1 image of 1280 px in the last minute.", "Lower the size to 1152 px."},
		"a larger one succeeded elsewhere": {func(w *world) {
			w.fail(1280)
			w.prompt(func(p *Prompt) { p.Side, p.GPUs = 1152, []string{"GPU-a"} })
		},
			"gpu1 ran out of memory for 1 image of 1280 px in the last minute.", "Lower the size to 1024 px."},
		"an unknown size": {func(w *world) { w.fail(1280); w.fail(0) },
			"gpu1 ran out of memory for 2 images in the last minute.", "Send smaller images, or free the models of other servers on this GPU (POST /free)."},
		"the smallest size": {func(w *world) { w.fail(256) },
			"gpu1 ran out of memory for 1 image of 256 px in the last minute.", "Send smaller images, or free the models of other servers on this GPU (POST /free)."},
		"an unknown GPU": {func(w *world) {
			w.prompt(func(p *Prompt) { p.Outcome, p.ErrorType, p.Side, p.GPUs = failed, outOfMemory, 1280, nil })
		},
			"ComfyUI node-1:8188 ran out of memory for 1 image of 1280 px in the last minute.", "Lower the size to 1024 px."},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.steady(0, healthy)
			c.prompts(w)
			w.evaluate()
			text, remedy := w.worded("comfyui.out_of_memory", texts.English)
			assert.Equal(t, c.text, text)
			assert.Equal(t, c.remedy, remedy)
		})
	}
}

// TestOutOfMemoryNamesTheProgramThatHoldsTheMemory first: smaller images are what is left until it has
// gone.
func TestOutOfMemoryNamesTheProgramThatHoldsTheMemory(t *testing.T) {
	const holds = "python (process 77) holds 14.0 GiB of this GPU and is not ComfyUI: stop it, or move it to another GPU."
	for name, c := range map[string]struct {
		side, memory int64
		gpus         []string
		remedy       string
	}{
		"most of the GPU":                    {1280, 15032385536, []string{"GPU-b"}, holds + " Until then, lower the size to 1024 px."},
		"most of the GPU, the smallest size": {256, 15032385536, []string{"GPU-b"}, holds},
		"most of the GPU, an unknown size":   {0, 15032385536, []string{"GPU-b"}, holds},
		"little of the GPU":                  {1280, 1 << 30, []string{"GPU-b"}, "Lower the size to 1024 px."},
		"most of another GPU":                {1280, 15032385536, []string{"GPU-a"}, "Lower the size to 1024 px."},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.steady(0, with(fmt.Sprintf("hw.gpu.process.memory.usage{1,process.pid=77,process.executable.name=python} %d", c.memory)))
			w.prompt(func(p *Prompt) { p.Outcome, p.ErrorType, p.Side, p.GPUs = failed, outOfMemory, c.side, c.gpus })
			w.evaluate()
			_, remedy := w.worded("comfyui.out_of_memory", texts.English)
			assert.Equal(t, c.remedy, remedy)
		})
	}
}

func TestOutOfMemoryIsBrokenWhileUsersLoseImages(t *testing.T) {
	w := newWorld(t)
	w.steady(0, healthy)
	w.fail(1280)
	w.evaluate()
	assert.Equal(t, view.Broken, w.result.Verdict.Severity)
	severity, status := w.result.Status("GPU-b")
	assert.Equal(t, view.Broken, severity)
	assert.Equal(t, "显存不足", status.In(texts.Chinese))
	assert.Equal(t, "gpu1 在最近 1 分钟内有 1 张图（1280 px）因显存不足失败。", w.verdict(texts.Chinese))
	w.steady(6*time.Minute, healthy)
	assert.Equal(t, view.Warning, w.result.Verdict.Severity)
	assert.Contains(t, w.verdict(texts.English), "in the last 6 minutes")
	w.steady(55*time.Minute, healthy)
	assert.Empty(t, w.shown(), "an hour, as the alert")
}

func TestAFullGPUNamesTheIdleServerThatHoldsIt(t *testing.T) {
	w := newWorld(t)
	w.servers("comfyui.up 1\ncomfyui.queue.length{state=running} 0\ncomfyui.queue.length{state=pending} 0\ncomfyui.torch.memory.limit{hw.id=GPU-b} 15032385536")
	w.steady(15*time.Second, with("hw.gpu.memory.usage{1} 25000000000"))
	_, remedy := w.worded("gpu.memory.critical", texts.English)
	assert.Equal(t, "Free the models of node-1:8188 (POST /free): it is idle and holds 14.0 GiB of this GPU.", remedy)
	w.now = w.now.Add(time.Second)
	w.servers("comfyui.queue.length{state=running} 1")
	w.evaluate()
	_, remedy = w.worded("gpu.memory.critical", texts.English)
	assert.Contains(t, remedy, "Hold large prompts back")
}

func TestAFullGPUNamesTheProgramThatFillsIt(t *testing.T) {
	w := newWorld(t)
	w.servers("comfyui.up 1\ncomfyui.queue.length{state=running} 0\ncomfyui.queue.length{state=pending} 0\ncomfyui.torch.memory.limit{hw.id=GPU-b} 5000000000")
	w.steady(15*time.Second, with("hw.gpu.memory.usage{1} 25000000000\nhw.gpu.process.memory.usage{1,process.pid=77,process.executable.name=python} 15032385536"))
	_, remedy := w.worded("gpu.memory.critical", texts.English)
	assert.Equal(t, "python (process 77) holds 14.0 GiB of this GPU and is not ComfyUI: stop it, or move it to another GPU.", remedy)
	_, remedy = w.worded("gpu.memory.critical", texts.Chinese)
	assert.Equal(t, "python（进程 77）占用该 GPU 14.0 GiB 显存，且不是 ComfyUI：请停止该进程，或将其迁到其他 GPU。", remedy)
}

// The row beside it shows all that is in use, of which "needed" is what ComfyUI needs: other programs are not.
func TestWhatComfyUIWouldEvictIsApartFromWhatFillsAGPU(t *testing.T) {
	w := newWorld(t)
	w.servers("comfyui.memory.elastic{hw.id=GPU-b} 2147483648")
	w.steady(15*time.Second, with("hw.gpu.memory.usage{1} 25000000000"))
	text, _ := w.worded("gpu.memory.high", texts.English)
	assert.Equal(t, "gpu1 is nearly full: 21.3 GiB of 24.0 GiB (89 %) are in use and cannot be evicted; ComfyUI would evict 2.0 GiB more.", text)
	text, _ = w.worded("gpu.memory.high", texts.Chinese)
	assert.Equal(t, "gpu1 显存占用过高：不可回收 21.3 GiB，共 24.0 GiB（89%）；另有 2.0 GiB 可由 ComfyUI 回收。", text)
}

// After a /free, or when the server has ended, its series is marked as stale, and the GPU
// that others fill is full.
func TestElasticMemoryCountsNoLongerThanItIsKnown(t *testing.T) {
	w := newWorld(t)
	w.servers("comfyui.memory.elastic{hw.id=GPU-b} 10000000000")
	w.steady(30*time.Second, with("hw.gpu.memory.usage{1} 25000000000"))
	assert.Empty(t, w.shown())
	w.now = w.now.Add(time.Second)
	w.servers("comfyui.memory.elastic{hw.id=GPU-b} stale")
	w.wait(5 * time.Second)
	assert.Equal(t, []string{"gpu.memory.critical"}, w.shown())
}

func TestAnXIDThatBothAScrapeAndARecordReportIsOne(t *testing.T) {
	w := newWorld(t)
	w.steady(15*time.Second, with("hw.gpu.xid.errors{:hw.gpu.xid=13} 0"))
	for i := 1; i <= 2; i++ {
		w.logs("hw.gpu.xid{hw.id=GPU-a,hw.gpu.xid=#13}")
		w.now = w.now.Add(15 * time.Second)
		w.gpus(with(fmt.Sprintf("hw.gpu.xid.errors{:hw.gpu.xid=13} %d", i)))
		w.evaluate()
	}
	assert.Empty(t, w.shown(), "two, not four")
	w.logs("hw.gpu.xid{hw.id=GPU-a,hw.gpu.xid=#13}")
	w.wait(time.Second)
	assert.Equal(t, []string{"gpu.xid.warning"}, w.shown(), "three of one kind")
	_, remedy := w.worded("gpu.xid.warning", texts.English)
	assert.Contains(t, remedy, "Restart the program")
}

func TestXIDsOfTheWorkflowTierCountFromTheFirst(t *testing.T) {
	w := newWorld(t)
	w.steady(0, healthy)
	w.logs("hw.gpu.xid{hw.id=GPU-b,hw.gpu.xid=#48}\nhw.gpu.xid{hw.id=GPU-b,hw.gpu.xid=#45,hw.gpu.event.count=#500}")
	at := w.now
	w.wait(time.Minute)
	assert.Equal(t, "gpu1 reported XID 48 (Double bit ECC error).", w.verdict(texts.English))
	assert.Equal(t, at, w.result.Verdict.Since)
	_, remedy := w.worded("gpu.xid.warning", texts.English)
	assert.Contains(t, remedy, "NVIDIA's workflow")
}

func TestACriticalXIDHoldsUntilTheGPUIsRecovered(t *testing.T) {
	w := newWorld(t)
	const asked = "hw.gpu.xid.errors{:hw.gpu.xid=79} 1\nhw.gpu.recovery_action{:hw.gpu.recovery.action=reset} 1"
	w.steady(15*time.Second, with("hw.gpu.xid.errors{:hw.gpu.xid=79} 0"))
	w.steady(90*time.Minute, with(asked))
	assert.True(t, w.shows("gpu.xid.critical"), "longer than an hour")
	w.steady(15*time.Second, with("hw.gpu.xid.errors{:hw.gpu.xid=79} 1"))
	assert.Empty(t, w.shown())
}

func TestPagesThatWaitForARebootAreShown(t *testing.T) {
	w := newWorld(t)
	w.steady(0, with("hw.gpu.retired_pages.pending{} 1"))
	text, remedy := w.worded("gpu.pages.retired", texts.English)
	assert.Equal(t, "gpu0 has faulty pages of memory that are retired at the next reboot.", text)
	assert.Equal(t, "Reboot the host at the next opportunity.", remedy)
}

func TestTheTemperatureMayBeKnownAsAMargin(t *testing.T) {
	w := newWorld(t)
	w.steady(45*time.Second, with("hw.gpu.temperature.margin{1} 2"))
	text, _ := w.worded("gpu.temperature.near_limit", texts.English)
	assert.Equal(t, "gpu1 is at 60 °C and slows down at 62 °C.", text)
}

func TestANarrowLinkIsShownWithoutLoad(t *testing.T) {
	w := newWorld(t)
	w.steady(90*time.Second, with("hw.gpu.pcie.link.width{:state=current} 8"))
	text, _ := w.worded("gpu.pcie.degraded", texts.English)
	assert.Equal(t, "gpu0 uses 8 PCIe lanes of 16.", text)
}

func TestAGPUThatIsAllocatedAndDoesNothingIsIdle(t *testing.T) {
	w := newWorld(t)
	w.steady(2*time.Hour+time.Minute, with("hw.gpu.memory.usage{} 0\nhw.gpu.allocated{:k8s.pod.name=p} 1\nhw.gpu.active.time{:hw.gpu.task=general} 5"))
	assert.Equal(t, []string{"gpu.idle"}, w.shown())
}

func TestWithoutAKnownMeanAPromptIsStalledOnceNothingProgresses(t *testing.T) {
	for name, c := range map[string]struct {
		age     func(i int) int
		stalled bool
	}{
		"nothing progresses": {func(i int) int { return 15 * i }, true},
		"it progresses":      {func(i int) int { return 1 + 15*(i%3) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			queue(w, 3*time.Minute, func(i int) string {
				return fmt.Sprintf("comfyui.queue.length{state=pending} 1\ncomfyui.progress.age{comfyui.task_class=} %d", c.age(i))
			})
			assert.Equal(t, c.stalled, w.shows("comfyui.stalled"))
		})
	}
	w := newWorld(t)
	queue(w, 3*time.Minute, func(i int) string {
		return fmt.Sprintf("comfyui.queue.length{state=pending} 0\ncomfyui.progress.age{comfyui.task_class=people} %d", 15*i)
	})
	assert.False(t, w.shows("comfyui.stalled"), "nobody waits for it")
}

func TestALatencyThatIsOverIsNotShown(t *testing.T) {
	w := newWorld(t)
	w.steady(0, healthy)
	for range 20 {
		w.prompt(func(p *Prompt) { p.Total = time.Minute })
	}
	w.evaluate()
	assert.True(t, w.shows("comfyui.latency.critical"))
	w.steady(6*time.Minute, healthy)
	w.prompt(nil)
	w.evaluate()
	assert.False(t, w.shows("comfyui.latency.critical"), "the last five minutes are well")
}

// TestALevelIsACondition: on the page normal is fine, the next two are worth a look, critical is
// broken; what does not work has causes of its own.
func TestALevelIsACondition(t *testing.T) {
	for level, want := range map[advice.Level]struct {
		severity view.Severity
		text     string
	}{
		advice.Normal: {}, advice.Unhealthy: {},
		advice.Busy:      {view.Warning, "gpu1 is busy, and images wait."},
		advice.Saturated: {view.Warning, "A new image would wait up to 21 s for gpu1."},
		advice.Critical:  {view.Broken, "A new image would wait up to 21 s for gpu1, longer than its objective."},
	} {
		w := newWorld(t)
		w.steady(15*time.Second, healthy)
		w.m.SetLoads(map[string]advice.Load{"GPU-b": {Level: level, Wait: 21 * time.Second}})
		w.evaluate()
		if want.text == "" {
			assert.Empty(t, w.shown(), level)
			continue
		}
		assert.Equal(t, []string{"gpu.load"}, w.shown(), level)
		text, remedy := w.worded("gpu.load", texts.English)
		assert.Equal(t, want.text, text)
		assert.Contains(t, remedy, "smaller images")
		severity, status := w.result.Status("GPU-b")
		assert.Equal(t, want.severity, severity)
		assert.Equal(t, "busy", status.In(texts.English))
		assert.Equal(t, want.text, w.verdict(texts.English))
		w.m.SetLoads(nil)
		w.evaluate()
		assert.Empty(t, w.shown(), "at once: a level has a dwell of its own")
	}
}

// TestAShortageIsACondition: it shows once it has lasted, and names the program that holds the memory.
func TestAShortageIsACondition(t *testing.T) {
	w := newWorld(t)
	short(w, 700<<20, 2*time.Minute)
	assert.Equal(t, []string{"gpu.memory.short"}, w.shown())
	text, remedy := w.worded("gpu.memory.short", texts.English)
	assert.Equal(t, "gpu1 is 700 MiB short of the memory that ComfyUI's prompts of the last hour need.", text)
	assert.Contains(t, remedy, "Stop other programs on this GPU")
	severity, status := w.result.Status("GPU-b")
	assert.Equal(t, view.Warning, severity)
	assert.Equal(t, "memory short", status.In(texts.English))
	w.gpus("hw.gpu.process.memory.usage{1,process.pid=#4242,process.executable.name=blender} 9663676416")
	short(w, 700<<20, time.Minute)
	_, remedy = w.worded("gpu.memory.short", texts.English)
	assert.Equal(t, "blender (process 4242) holds 9.0 GiB of this GPU and is not ComfyUI: stop it, or move it to another GPU.", remedy)
	w.m.SetLoads(nil)
	w.wait(9 * time.Second)
	assert.True(t, w.shows("gpu.memory.short"), "it may come back at once")
	w.wait(2 * time.Second)
	assert.False(t, w.shows("gpu.memory.short"))
}
