// SPDX-License-Identifier: Apache-2.0

package browser

import (
	"fmt"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
)

func (f *fixture) Prompt(l texts.Language, id string) (view.Detail, bool) {
	for i := range f.prompts {
		if p := f.prompt(l, i); p.ID == id {
			return f.detail(l, p), true
		}
	}
	return view.Detail{}, false
}

func (f *fixture) detail(l texts.Language, p view.Prompt) view.Detail {
	d := view.Detail{Prompt: p, Usual: &view.Usual{Median: 2.4, Executions: 20},
		Links: []view.Link{{Name: "Jaeger", URL: "http://127.0.0.1:16686/trace/" + p.TraceID}, {Name: "Tempo", URL: "http://127.0.0.1:3200/trace/" + p.TraceID}}}
	parts := []view.Part{
		{Kind: view.PartWaiting, Text: in(l, "waited behind 4 prompts", "排在 4 个任务之后"), Seconds: p.Waited},
		{Kind: view.PartLoading, Text: in(l, "loaded the model", "加载模型"), Seconds: p.Ran * 0.5},
		{Kind: view.PartThrottled, Text: in(l, "worked while throttled: power cap", "节流状态下计算：功耗上限"), Seconds: p.Ran * 0.1},
		{Kind: view.PartShared, Text: in(l, "worked beside another process", "与其他进程共享时计算"), Seconds: p.Ran * 0.1},
		{Kind: view.PartWork, Text: in(l, "worked", "计算"), Seconds: p.Ran * 0.3},
	}
	for _, part := range parts {
		if part.Seconds > 0 {
			d.Parts = append(d.Parts, part)
		}
	}
	switch {
	case p.Outcome != "success":
		d.Sentence = in(l, "Failed after 0.90 s in DDColor_Colorize: out of memory.", "在 DDColor_Colorize 中运行 0.90 秒后失败：显存不足。")
		d.Remedy = in(l, "Lower the size to 1024 px, or stop trainer (pod research/finetune-7f9c), which holds 5.28 GiB.", "请将尺寸降到 1024 像素，或停止占用 5.28 GiB 的 trainer（Pod research/finetune-7f9c）。")
	case p.Slow:
		d.Sentence = in(l, "1.7 times its usual 2.40 s: waited behind 4 prompts for 6.10 s, loaded the model for 2.05 s, was throttled for 0.40 s.", "耗时为平时 2.40 秒的 1.7 倍：排在 4 个任务之后 6.10 秒，加载模型 2.05 秒，节流 0.40 秒。")
	default:
		d.Sentence = in(l, "Took its usual time: nothing was unusual.", "耗时与平时相当，没有异常。")
	}
	d.Spans = f.spans(p)
	h := f.series(gpuID(0), p.Received.Add(-2*time.Second), p.Ended.Add(2*time.Second), 100*time.Millisecond)
	d.Series = []view.History{h}
	return d
}

func (f *fixture) spans(p view.Prompt) []view.Span {
	all := []view.Span{
		{ID: "1", Name: "comfyui.prompt", Kind: "prompt", Duration: p.Duration},
		{ID: "2", Parent: "1", Name: "comfyui.queue", Kind: "queue", Duration: p.Waited},
		{ID: "3", Parent: "1", Name: "comfyui.execution", Kind: "execution", Start: p.Waited, Duration: p.Ran, GPU: "gpu0", Bill: p.Bill},
	}
	at := p.Waited
	for i, class := range []string{"LoadImage", "DDColorLoader", "ImageScaleToTotalPixels", "DDColor_Colorize", "ImageBlend", "SaveImage"} {
		share := []float64{0.03, 0.5, 0.04, 0.36, 0.03, 0.04}[i]
		s := view.Span{ID: fmt.Sprint(10 + i), Parent: "3", Name: "comfyui.node " + class, Kind: "node", Class: class, NodeID: fmt.Sprint(i), Start: at, Duration: p.Ran * share, GPU: "gpu0",
			Bill: &view.Bill{MemoryPeak: bytesOf(4.1), Energy: pointer(20 * share * 10), EnergyUncertainty: pointer(2.0), Quality: "measured"}}
		if i == 1 {
			s.Loading, s.LoadingEstimated = s.Duration*0.9, true
		}
		if i == 3 && p.Outcome != "success" {
			s.Error = p.ErrorType
		}
		at += s.Duration
		all = append(all, s)
	}
	return all
}

func (f *fixture) series(gpu string, from, to time.Time, step time.Duration) view.History {
	h := view.History{GPU: gpu}
	for i, at := 0, from; at.Before(to); i, at = i+1, at.Add(step) {
		use := wave(i, 1)
		h.Times = append(h.Times, float64(at.UnixMilli())/1000)
		h.Memory = append(h.Memory, pointer((6+10*use)*gib))
		h.MemoryPeak = append(h.MemoryPeak, pointer((7+10*use)*gib))
		h.Temperature = append(h.Temperature, pointer(50+30*use))
		h.Power = append(h.Power, pointer(80+350*use))
		if i%50 > 44 {
			h.Utilization = append(h.Utilization, nil)
		} else {
			h.Utilization = append(h.Utilization, &use)
		}
	}
	return h
}

func (f *fixture) History(gpu string) (view.History, bool) {
	if f.trouble == "odd" {
		return view.History{GPU: gpu}, true
	}
	for i := range f.gpus {
		if g := f.gpu(texts.English, i); g.ID == gpu || g.Name == gpu {
			return f.series(g.Name, f.now().Add(-30*time.Minute), f.now(), 5*time.Second), true
		}
	}
	return view.History{}, false
}
