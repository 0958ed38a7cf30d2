// SPDX-License-Identifier: Apache-2.0

package causes

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
)

// A text that is missing would be shown as its key.
func TestEachCauseHasItsTexts(t *testing.T) {
	known := texts.Keys(texts.English)
	used := map[string]bool{}
	need := func(key string) {
		used[key] = true
		for _, l := range texts.Languages() {
			assert.Contains(t, texts.Keys(l), key, l)
		}
	}
	for i := range Table {
		id := Table[i].ID
		assert.Same(t, &Table[i], Find(id), "%s is there twice", id)
		need("cause." + id)
		need("cause." + id + ".remedy")
		if strings.HasPrefix(id, "gpu.") || id == "comfyui.out_of_memory" {
			need("cause." + id + ".status")
		}
		for _, other := range Table[i].Silences {
			assert.NotNil(t, Find(other), "%s silences %s", id, other)
		}
		assert.GreaterOrEqual(t, rank(Table[i].Severity), 0, id)
	}
	for _, key := range []string{
		"cause.gpu.lost.xid", "cause.gpu.memory.remedy.idle", "cause.gpu.memory.remedy.other", "cause.gpu.memory.critical.elastic", "cause.gpu.memory.high.elastic", "cause.gpu.pages.pending", "cause.gpu.pages.pending.remedy", "cause.gpu.pcie.degraded.width",
		"cause.gpu.load.saturated", "cause.gpu.load.critical", "cause.comfyui.out_of_memory.sizes", "cause.comfyui.out_of_memory.plain", "cause.comfyui.out_of_memory.remedy.size", "cause.comfyui.out_of_memory.remedy.other",
	} {
		need(key)
	}
	for _, key := range known {
		if strings.HasPrefix(key, "cause.") {
			assert.True(t, used[key], "no cause uses %s", key)
		}
	}
	assert.Nil(t, Find("none"))
	assert.Len(t, IDs(), len(Table))
}

func TestASpikeOfMemoryIsNotShown(t *testing.T) {
	w := newWorld(t)
	w.steady(0, healthy)
	full := func(used int) {
		w.now = w.now.Add(time.Millisecond)
		w.gpus(fmt.Sprintf("hw.gpu.memory.usage{1} %d", used))
		w.evaluate()
	}
	full(25e9)
	began := w.now
	w.wait(2 * time.Second)
	assert.False(t, w.shows("gpu.memory.critical"), "two seconds are a spike")
	w.wait(time.Second)
	assert.True(t, w.shows("gpu.memory.critical"))
	assert.Equal(t, began, w.result.Verdict.Since, "since it was so, not since it is shown")
	full(20e9)
	w.wait(9 * time.Second)
	assert.True(t, w.shows("gpu.memory.critical"), "it may come back at once")
	full(25e9)
	w.wait(time.Second)
	full(20e9)
	w.wait(9 * time.Second)
	assert.True(t, w.shows("gpu.memory.critical"))
	assert.Equal(t, began, w.result.Verdict.Since)
	w.wait(2 * time.Second)
	assert.Empty(t, w.shown())
	for range 10 { // flapping
		full(25e9)
		w.wait(time.Second)
		full(20e9)
		w.wait(time.Second)
		assert.False(t, w.shows("gpu.memory.critical"))
	}
}

func TestTheCriticalOneSilencesItsWarning(t *testing.T) {
	w := newWorld(t)
	w.steady(30*time.Second, with("hw.gpu.memory.usage{1} 25000000000\nhw.gpu.memory.usage{} 22500000000"))
	var shown []string
	for _, c := range w.result.Conditions {
		shown = append(shown, c.Cause.ID+" "+c.GPU)
	}
	assert.Equal(t, []string{"gpu.memory.critical GPU-b", "gpu.memory.high GPU-a"}, shown, "of another GPU it does not")
}

func TestSilenceIsThatOfAlertmanager(t *testing.T) {
	for by, silenced := range map[string][]string{
		"gpu.xid.critical":    {"gpu.xid.warning"},
		"gpu.memory.critical": {"gpu.memory.high", "gpu.memory.short", "gpu.load"},
		"gpu.row_remap.failed": {
			"gpu.row_remap.pending", "gpu.pages.retired", "gpu.predicted_failure",
		},
		"gpu.recovery_action": {"gpu.row_remap.pending", "gpu.pages.retired", "gpu.predicted_failure"},
		"comfyui.down":        {"comfyui.queue.growing", "comfyui.stalled", "comfyui.errors", "comfyui.latency.critical", "comfyui.loading"},
	} {
		all := []Condition{{Cause: Find(by), GPU: "GPU-a", Server: "s"}}
		for i := range Table {
			if Table[i].ID == by {
				continue
			}
			all = append(all, Condition{Cause: &Table[i], GPU: "GPU-a", Server: "s"}, Condition{Cause: &Table[i], GPU: "GPU-b", Server: "other"})
		}
		all = slices.DeleteFunc(all, func(c Condition) bool { return c.Cause.SilencesGPU || len(c.Cause.Silences) > 0 && c.Cause.ID != by })
		left := map[string]bool{}
		for _, c := range silence(all) {
			left[c.Cause.ID+" "+c.GPU] = true
		}
		for i := range Table {
			c := &Table[i]
			if c.SilencesGPU || len(c.Silences) > 0 {
				continue
			}
			assert.Equal(t, !slices.Contains(silenced, c.ID), left[c.ID+" GPU-a"], "%s beside %s", c.ID, by)
			if !strings.HasPrefix(by, "comfyui") {
				assert.True(t, left[c.ID+" GPU-b"], "%s of another GPU", c.ID)
			}
		}
	}
}

// Nothing else is worth a word of a GPU that is lost, and of the MIG devices on it.
func TestALostGPUSilencesAllOfIt(t *testing.T) {
	for _, state := range []string{"lost", "unresponsive"} {
		w := newWorld(t)
		broken := with("hw.gpu.row_remaps.failed{} 1\nhw.gpu.memory.usage{1} 25000000000\nhw.gpu.state{:hw.state=healthy} 0\nhw.gpu.state{:hw.state="+state+"} 1") +
			"\nhw.gpu.info{hw.id=MIG-1,hw.name=gpu0/mig1,hw.parent=GPU-a} 1\nhw.gpu.row_remaps.pending{hw.id=MIG-1,hw.name=gpu0/mig1} 1"
		w.steady(15*time.Second, broken)
		w.prompt(func(p *Prompt) { p.GPUs, p.Outcome, p.ErrorType = []string{"GPU-a"}, failed, outOfMemory })
		w.evaluate()
		assert.Equal(t, []string{"gpu." + state, "gpu.memory.critical"}, w.shown())
		severity, status := w.result.Status("GPU-a")
		assert.Equal(t, view.Broken, severity)
		assert.Equal(t, state, status.In(texts.English))
	}
}

func TestALostGPUIsShownWithTheXIDThatSaysWhy(t *testing.T) {
	w := newWorld(t)
	w.steady(0, healthy)
	w.logs("hw.gpu.xid{hw.id=GPU-a,hw.gpu.xid=#31}\nhw.gpu.xid{hw.id=GPU-a,hw.gpu.xid=#79}")
	w.now = w.now.Add(15 * time.Second)
	w.steady(0, with("hw.gpu.state{:hw.state=healthy} 0\nhw.gpu.state{:hw.state=lost} 1"))
	assert.Equal(t, "gpu0 is lost: the driver no longer reaches it (XID 79: GPU has fallen off the bus).", w.verdict(texts.English))
	assert.Equal(t, "gpu0 掉线：驱动已无法访问它（XID 79：GPU has fallen off the bus）。", w.verdict(texts.Chinese))
}

func TestSamplesThatStoppedAreShownWithTheirAge(t *testing.T) {
	w := newWorld(t)
	w.steady(time.Minute, healthy)
	w.wait(37 * time.Second)
	assert.False(t, w.shows("gpu.samples.stopped"))
	last := w.now.Add(-37 * time.Second)
	w.wait(21 * time.Second)
	text, remedy := w.worded("gpu.samples.stopped", texts.English)
	assert.Equal(t, "No samples of gpu0 for 58 s: its figures are stale.", text)
	assert.Contains(t, remedy, "nvidia-smi")
	assert.Equal(t, last, w.result.Verdict.Since)
	assert.Equal(t, []string{"gpu.samples.stopped", "gpu.samples.stopped"}, w.shown(), "both GPUs, and nothing else of them")
	w.steady(0, healthy)
	assert.Empty(t, w.shown())
}

func TestNoGPUAtAllIsBroken(t *testing.T) {
	w := newWorld(t)
	w.evaluate()
	assert.Equal(t, "Waiting for the first samples of the GPUs", w.verdict(texts.English))
	w.wait(30 * time.Second)
	assert.Equal(t, "No NVIDIA GPU was found.", w.verdict(texts.English))
	assert.Equal(t, view.Broken, w.result.Verdict.Severity)
	assert.Equal(t, "未发现 NVIDIA GPU。", w.verdict(texts.Chinese))
	w.steady(0, healthy)
	assert.Equal(t, view.Fine, w.result.Verdict.Severity)
}

func TestWithNothingWrongTheVerdictSaysWhatWorks(t *testing.T) {
	w := newWorld(t)
	w.steady(0, healthy)
	assert.Equal(t, "All is well: 2 GPUs. No ComfyUI is monitored", w.verdict(texts.English))
	w.servers("comfyui.up 1\ncomfyui.queue.oldest.wait 0")
	w.evaluate()
	assert.Equal(t, "All is well: 2 GPUs, no prompt yet", w.verdict(texts.English))
	for range 5 {
		w.prompt(nil)
	}
	w.prompt(func(p *Prompt) { p.Outcome = "cancelled" })
	w.evaluate()
	assert.Equal(t, "All is well: 2 GPUs, 5 images in the last minute, nothing waits", w.verdict(texts.English))
	w.now = w.now.Add(time.Second)
	w.servers("comfyui.up 1\ncomfyui.queue.oldest.wait 2.1")
	w.evaluate()
	assert.Equal(t, "All is well: 2 GPUs, 5 images in the last minute, nothing waits longer than 3 s", w.verdict(texts.English))
	assert.Equal(t, "一切正常：2 块 GPU，最近一分钟出图 5 张图，排队均不超过 3 秒", w.verdict(texts.Chinese))
	w.steady(75*time.Second, healthy)
	w.prompt(nil)
	w.evaluate()
	assert.Contains(t, w.verdict(texts.English), "1 image in the last minute")
	v := w.result.Verdict.View(texts.English)
	assert.Equal(t, view.Fine, v.Severity)
	assert.Empty(t, v.Cause)
	assert.Empty(t, v.Remedy)
	severity, status := w.result.Status("GPU-a")
	assert.Equal(t, view.Fine, severity)
	assert.Equal(t, "fine", status.In(texts.English))
}

func TestMIGDevicesAreNotCountedAsGPUs(t *testing.T) {
	w := newWorld(t)
	const device = "hw.gpu.info{hw.id=MIG-1,hw.name=gpu0/mig0,hw.parent=GPU-a} 1\nhw.gpu.info{hw.id=MIG-2,hw.name=gpu0/mig1,hw.parent=GPU-a} 1"
	w.steady(0, device)
	assert.Equal(t, "All is well: 2 GPUs. No ComfyUI is monitored", w.verdict(texts.English), "only they are visible")
	w.steady(0, healthy)
	assert.Equal(t, "All is well: 2 GPUs. No ComfyUI is monitored", w.verdict(texts.English))
	assert.Len(t, w.m.GPUs(), 4)
}

// An idle GPU is listed, and is neither the verdict nor the GPU's status.
func TestANoteIsNotTheVerdict(t *testing.T) {
	w := newWorld(t)
	rising(w, "hw.gpu.active.time{:hw.gpu.task=general}", 0, 2*time.Hour+time.Minute)
	assert.Equal(t, []string{"gpu.idle"}, w.shown())
	assert.Contains(t, w.verdict(texts.English), "All is well")
	severity, status := w.result.Status("GPU-a")
	assert.Equal(t, view.Fine, severity)
	assert.Equal(t, "fine", status.In(texts.English))
}

func TestTheWorstComesFirstAndTheOldestOfEqualOnes(t *testing.T) {
	w := newWorld(t)
	w.steady(15*time.Second, with("hw.gpu.row_remaps.pending{} 1"))
	w.steady(15*time.Second, with("hw.gpu.row_remaps.pending{} 1\nhw.gpu.row_remaps.failed{1} 1\nhw.status{:hw.state=predicted_failure} 1"))
	w.steady(0, with("hw.gpu.row_remaps.pending{} 1\nhw.gpu.row_remaps.failed{1} 1\nhw.status{:hw.state=predicted_failure} 1\nhw.gpu.recovery_action{1,hw.gpu.recovery.action=reset} 1"))
	assert.Equal(t, []string{"gpu.row_remap.failed", "gpu.recovery_action", "gpu.row_remap.pending", "gpu.predicted_failure"}, w.shown())
	v := w.result.Conditions[0].View(texts.English)
	assert.Equal(t, "GPURowRemapFailure", v.Alert)
	assert.Equal(t, "GPU-b", v.GPU)
	assert.Equal(t, "https://github.com/otelcol-gpu/otelcol-gpu/blob/main/docs/runbooks/GPURowRemapFailure.md", v.Runbook)
}

func TestAClockThatIsSetBackDoesNotHideAConditionNorKeepIt(t *testing.T) {
	w := newWorld(t)
	w.steady(15*time.Second, with("hw.gpu.row_remaps.pending{} 1"))
	w.now = w.now.Add(-time.Hour)
	w.steady(0, with("hw.gpu.row_remaps.pending{} 1"))
	assert.Equal(t, []string{"gpu.row_remap.pending"}, w.shown())
	assert.False(t, w.result.Verdict.Since.After(w.now))
	w.steady(15*time.Second, healthy)
	assert.Empty(t, w.shown())
}

func TestConditionsAreBounded(t *testing.T) {
	w := newWorld(t)
	for i := range maxTracked {
		w.e.tracked[key{detail: fmt.Sprint(i), cause: &Table[0]}] = &tracked{begun: w.now, held: w.now, condition: Condition{Cause: &Table[0]}}
	}
	w.steady(0, with("hw.gpu.row_remaps.pending{} 1")) // evaluates, and checks the bounds
	assert.False(t, w.shows("gpu.row_remap.pending"))
	w.steady(15*time.Second, with("hw.gpu.row_remaps.pending{} 1"))
	assert.Equal(t, []string{"gpu.row_remap.pending"}, w.shown())
}

// An evaluation comes once a second, whether anybody looks or not.
func TestAnEvaluationOf64GPUsIsCheap(t *testing.T) {
	w := newWorld(t)
	for i := range 64 {
		text := strings.ReplaceAll(strings.ReplaceAll(healthy, "{1", "{:skip=x"), "{}", "{:a=b}")
		for link := range 18 {
			text += fmt.Sprintf("\nhw.gpu.nvlink.errors{:hw.gpu.nvlink.id=%d,error.type=replay} 0\nhw.gpu.nvlink.state{:hw.gpu.nvlink.id=%d} 1", link, link)
		}
		w.gpus(strings.ReplaceAll(text, "{:", fmt.Sprintf("{hw.id=GPU-%d,hw.name=gpu%d,", i, i)))
	}
	for i := range 3600 {
		w.prompt(func(p *Prompt) { p.Ended = w.now.Add(-time.Duration(i) * time.Second) })
	}
	w.evaluate()
	require.Len(t, w.m.GPUs(), 64)
	best := time.Hour
	for range 20 {
		began := time.Now()
		w.evaluate()
		best = min(best, time.Since(began))
	}
	t.Logf("an evaluation of 64 GPUs with 18 links each and 3600 prompts takes %v", best)
	assert.Less(t, best, 60*time.Millisecond, "a tenth of that without the race detector")
}

// TestASettingSaysHowLongAConditionHoldsBeforeItShows, and the rule stays the same.
func TestASettingSaysHowLongAConditionHoldsBeforeItShows(t *testing.T) {
	w := newWorld(t)
	w.e = NewEngine(map[string]time.Duration{"gpu.memory.critical": 7 * time.Second, "comfyui.down": 0})
	w.gpus("hw.gpu.memory.limit{1} 25769803776\nhw.gpu.memory.usage{1} 25000000000")
	w.evaluate()
	w.wait(6 * time.Second)
	assert.False(t, w.shows("gpu.memory.critical"))
	w.wait(time.Second)
	assert.True(t, w.shows("gpu.memory.critical"))
}
