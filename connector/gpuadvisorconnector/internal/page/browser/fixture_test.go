// SPDX-License-Identifier: Apache-2.0

package browser

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/page"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
)

const gib = 1 << 30

// scene is what a fixture shows.
type scene struct {
	name    string
	gpus    int
	servers int
	// prompts is how many are kept.
	prompts   int
	simulated bool
	// trouble is empty, or full, lost, stopped, rush, nobill.
	trouble string
	// isLive is true if figures change with each look.
	isLive bool
	// age is that of the newest sample.
	age time.Duration
}

// fixture is a page.Source made of a scene.
type fixture struct {
	scene
	reads  atomic.Int64
	rushes atomic.Int64
	// hasEnded is true if the first open prompt has ended.
	hasEnded atomic.Bool
	begun    time.Time
}

func newFixture(s scene) *fixture { return &fixture{scene: s, begun: time.Now().UTC()} }

func in(l texts.Language, english, chinese string) string {
	if l == texts.Chinese {
		return chinese
	}
	return english
}

// at is the number of looks at live figures.
func (f *fixture) at() int {
	if f.isLive {
		return int(f.reads.Load())
	}
	return 0
}

func (f *fixture) now() time.Time {
	if f.isLive {
		return time.Now().UTC()
	}
	return f.begun
}

func pointer[T any](v T) *T { return &v }

var models = []string{"NVIDIA GeForce RTX 4090", "NVIDIA L40S", "NVIDIA H100 80GB HBM3", "NVIDIA RTX 6000 Ada Generation"}

// wave is a figure from 0 to 1 that changes with i.
func wave(i, phase int) float64 { return 0.5 + 0.45*math.Sin(float64(i)/3+float64(phase)*1.7) }

func gpuID(i int) string { return fmt.Sprintf("GPU-5f0a%04d-8b1c-4f2e-9c7d-1f6f3b2a%04d", i, i) }

func (f *fixture) gpu(l texts.Language, i int) view.GPU {
	limit := []int64{24, 48, 80, 48}[i%4] * gib
	use := wave(f.at(), i)
	needed := int64(float64(limit) * (0.2 + 0.2*use))
	elastic, other := limit/5, int64(0.5*gib)
	g := view.GPU{
		ID: gpuID(i), Name: fmt.Sprintf("gpu%d", i), Model: models[i%4], State: "healthy", Simulated: f.simulated,
		Severity: view.Fine, Status: in(l, "fine", "正常"), Newest: f.now().Add(-f.age),
		Memory:      &view.Memory{Limit: limit, Needed: needed, Elastic: elastic, Other: other, Used: needed + elastic + other, Free: limit - needed - elastic - other, Peak: int64(float64(limit) * 0.72), PeakTime: f.begun.Add(-9 * time.Minute)},
		Utilization: &use, Temperature: &view.Temperature{Value: 40 + 40*use, Limit: pointer(88.0)}, Power: &view.Power{Value: 80 + 350*use, Limit: pointer(450.0)},
		Recent: view.Recent{Step: 5},
	}
	for k := range 60 {
		v := wave(f.at()+k, i)
		if i%4 == 3 && k > 20 && k < 26 {
			v = -1
		}
		g.Recent.Utilization = append(g.Recent.Utilization, v)
	}
	if f.servers > 0 && i%2 == 0 {
		server := f.server(i)
		g.Processes = append(g.Processes, view.Process{PID: 4242 + int64(i), Name: "python3", Memory: needed + elastic, Server: server})
		g.Running = append(g.Running, view.Running{Prompt: openID(server, 0), Workflow: "colorize", Side: 1280, Server: server})
	} else {
		g.Processes = append(g.Processes, view.Process{PID: 911, Name: "python", Pod: "ml/render-2", Memory: needed})
	}
	switch {
	case f.trouble == "full" && i%8 == 1%f.gpus, f.trouble == "rush" && i == 0:
		g.Severity, g.Status = view.Broken, in(l, "full", "显存已满")
		g.Memory.Needed, g.Memory.Elastic, g.Memory.Other = limit*70/100, limit*6/100, limit*22/100
		g.Memory.Used, g.Memory.Free, g.Memory.Peak = limit*98/100, limit-limit*98/100, limit*995/1000
		g.Throttling = []view.Throttling{{Reason: "sw_power_cap", Text: in(l, "power limit", "功耗上限"), Share: 0.12}}
		g.Utilization, g.Power.Value, g.Temperature.Value = pointer(0.99), 449, 83
		g.Processes = append(g.Processes, view.Process{PID: 977, Name: "trainer", Pod: "research/finetune-7f9c", Memory: limit * 22 / 100})
	case f.trouble == "lost" && i == f.gpus-1:
		g.Severity, g.Status, g.State = view.Broken, in(l, "lost", "已掉卡"), "lost"
		g.Newest = f.now().Add(-4 * time.Minute)
		g.Running = nil
	case f.trouble == "stopped":
		g.Severity, g.Status, g.State = view.Warning, in(l, "no samples", "采样停止"), "unknown"
	case f.trouble == "full" && i%8 == 4:
		g.Severity, g.Status = view.Warning, in(l, "hot", "过热")
		g.Temperature.Value = 87
		g.Throttling = []view.Throttling{{Reason: "hw_thermal_slowdown", Text: in(l, "thermal slowdown", "过热降频"), Share: 0.3}}
	}
	return g
}

func (f *fixture) server(i int) string { return fmt.Sprintf("127.0.0.1:%d", 8188+i%max(1, f.servers)) }

func openID(server string, i int) string { return fmt.Sprintf("open-%s-%d", server[len(server)-4:], i) }

func (f *fixture) serverState(l texts.Language, i int) view.Server {
	name := f.server(i)
	waiting := 2 - i%2*2
	if f.trouble == "rush" {
		waiting = 17
	}
	if f.isLive {
		waiting += f.at() % 4
	}
	s := view.Server{Name: name, IsUp: true, Running: 1, Waiting: waiting, SocketsOpen: 5}
	if f.gpus > 0 {
		s.GPUs = []string{f.gpu(l, 0).ID}
	}
	step := 3 + f.at()%17
	s.Prompts = []view.OpenPrompt{{ID: openID(name, 0), Workflow: "colorize", Side: 1280, State: "running", Since: f.begun.Add(-2 * time.Second), Node: &view.Node{ID: "7", Class: "DDColor_Colorize", Number: 7, Of: 12, Step: step, Steps: 20},
		Text: in(l, "running, node 7 of 12", "运行中，第 7 个节点，共 12 个")}}
	for k := 1; k <= waiting; k++ {
		s.Prompts = append(s.Prompts, view.OpenPrompt{ID: openID(name, k), Workflow: "upscale", Side: 2048, State: "waiting", Ahead: k, Since: f.begun.Add(-time.Duration(20-k) * time.Second), Starts: pointer(f.begun.Add(time.Duration(3*k) * time.Second)),
			Text: in(l, fmt.Sprintf("%d prompts ahead", k), fmt.Sprintf("前面还有 %d 个任务", k))})
		s.OldestWait = 19
	}
	if i == 1 || f.trouble == "rush" {
		s.Sockets = []view.Socket{{State: "silent", Since: f.begun.Add(-40 * time.Second), Text: in(l, "A client's socket is silent for 40 s although its prompt runs.", "一个客户端的连接已静默 40 秒，而其任务仍在运行。")}}
	}
	if f.trouble == "rush" { // its time means nothing, and is never the same
		s.Sockets = append(s.Sockets, view.Socket{State: "kept", Since: time.Now().UTC(), Text: in(l, "2 sockets are kept for clients that have left.", "为已离开的客户端保留了 2 个连接。")})
	}
	if f.hasEnded.Load() {
		s.Prompts = s.Prompts[1:]
	}
	if f.trouble == "down" && i == 0 {
		return view.Server{Name: name, GPUs: s.GPUs}
	}
	return s
}

const slowestID = "9f3a1c52-7d40-4b6e-8a11-2c5d7e9b0001"

func (f *fixture) prompt(l texts.Language, i int) view.Prompt {
	ended := f.begun.Add(-time.Duration(8*i+3) * time.Second)
	p := view.Prompt{
		ID: fmt.Sprintf("9f3a1c52-7d40-4b6e-8a11-2c5d7e9b%04d", i), TraceID: fmt.Sprintf("4bf92f3577b34da6a3ce929d0e0e%04d", i), Server: f.server(0), GPUs: []string{gpuID(0)},
		Waited: 0.2 * float64(i%3), Ran: 2.4 + 0.05*float64(i%5), Ended: ended, Workflow: "colorize", Model: "ddcolor_modelscope.pth", Width: 1280, Height: 960, Side: 1280, Outcome: "success",
		Bill: &view.Bill{MemoryPeak: bytesOf(4.1), MemoryNeed: bytesOf(3.2), Energy: pointer(180.0), EnergyUncertainty: pointer(6.0), ThrottleTime: pointer(0.0), Quality: "measured"},
	}
	switch i % 9 {
	case 1:
		p.Waited, p.Ran, p.Slow = 6.1, 4.1, true
		p.Bill.ThrottleTime = pointer(0.4)
		p.Reason = in(l, "waited behind 4 prompts", "前面有 4 个任务")
	case 3:
		p.Workflow, p.Outcome, p.ErrorType, p.ErrorNode, p.Ran = "colorize", "error", "torch.OutOfMemoryError", "DDColor_Colorize", 0.9
		p.Bill.Energy, p.Bill.EnergyUncertainty = pointer(60.0), pointer(9.0)
		p.Reason = in(l, "out of memory in DDColor_Colorize", "DDColor_Colorize 显存不足")
	case 5:
		p.Workflow, p.Side, p.Width, p.Height, p.Ran, p.Slow = "upscale and sharpen for print", 4096, 4096, 3072, 8.8, true
		p.Reason = in(l, "loaded the model for 6.3 s", "加载模型 6.3 秒")
		p.Bill.Energy, p.Bill.EnergyUncertainty, p.Bill.Quality, p.Bill.Why = pointer(12300.0), pointer(610.0), "estimate", in(l, "its GPU has no energy counter", "该 GPU 没有能耗计数器")
	case 7:
		p.Bill, p.NoBill = nil, in(l, "its samples had been dropped", "采样数据已被丢弃")
	}
	if i == 0 && f.hasEnded.Load() {
		p.ID = openID(p.Server, 0)
	}
	if f.trouble == "odd" {
		p.Workflow = []string{"上色并放大到四千像素的工作流程（老照片修复）", "a_workflow_without_any_space_and_with_a_very_long_name_that_somebody_chose.json", ""}[i%3]
		p.Reason = in(l, "waited behind 1234 prompts of somebody else who sent them all at once", "前面有 1234 个任务，均由另一位用户一次性提交")
		p.Waited, p.Ran = 12345.6, 0.0004
	}
	p.Duration = p.Waited + p.Ran
	p.Received = ended.Add(-time.Duration(p.Duration * float64(time.Second)))
	return p
}

func (f *fixture) State(l texts.Language) view.State {
	f.reads.Add(1)
	s := view.State{Time: time.Now().UTC(), Language: string(l), Host: "gpu-node-07", Simulated: f.simulated, CanRush: f.simulated, PromptsHeld: f.prompts, Conditions: []view.Condition{}}
	for i := range f.gpus {
		s.GPUs = append(s.GPUs, f.gpu(l, i))
	}
	if f.gpus > 0 {
		s.Newest = pointer(time.Now().UTC().Add(-f.age - 400*time.Millisecond))
	}
	if f.trouble == "odd" {
		s.GPUs = oddGPUs(f.begun)
	}
	for i := range f.servers {
		s.Servers = append(s.Servers, f.serverState(l, i))
	}
	shift := 0
	if f.isLive {
		shift = f.at() / 4
	}
	for i := range min(20, f.prompts) {
		s.Prompts = append(s.Prompts, f.prompt(l, i+shift%5))
	}
	s.Verdict = view.Condition{Severity: view.Fine, Cause: "fine", Since: f.begun, Text: in(l, "All is well: 5 prompts in the last minute, none waits longer than 3 s.", "一切正常：最近一分钟 5 个任务，等待均不超过 3 秒。")}
	f.addTrouble(l, &s)
	return s
}

func (f *fixture) addTrouble(l texts.Language, s *view.State) {
	full := view.Condition{ID: "gpu.memory.oom", Severity: view.Broken, Cause: "gpu.memory.oom", Alert: "ComfyUIOutOfMemory", GPU: f.gpu(l, min(1, max(0, f.gpus-1))).ID, Since: f.begun,
		Text:   in(l, "gpu1 ran out of memory for 3 prompts of 1280 px in the last 2 minutes.", "gpu1 显存不足：最近 2 分钟有 3 个 1280 像素的任务失败。"),
		Remedy: in(l, "Lower the size to 1024 px, or stop trainer (pod research/finetune-7f9c), which holds 5.28 GiB.", "请将尺寸降到 1024 像素，或停止占用 5.28 GiB 的 trainer（Pod research/finetune-7f9c）。"), Runbook: "https://example.com/runbooks/ComfyUIOutOfMemory"}
	hot := view.Condition{ID: "gpu.throttled", Severity: view.Warning, Cause: "gpu.throttled", Alert: "GPUThrottled", GPU: f.gpu(l, 0).ID, Since: f.begun, Text: in(l, "gpu4 was throttled for 30 % of the last minute: thermal slowdown.", "gpu4 最近一分钟有 30% 的时间被节流：过热降频。"), Remedy: in(l, "Check fans and the intake's temperature.", "请检查风扇与进风温度。"), Runbook: "https://example.com/runbooks/GPUThrottled"}
	add := func(conditions ...view.Condition) {
		s.Conditions, s.Verdict = append(s.Conditions, conditions...), conditions[0]
	}
	if f.gpus == 0 {
		add(view.Condition{ID: "gpu.none", Severity: view.Warning, Cause: "gpu.none", Since: f.begun, Text: in(l, "No GPU is known.", "没有发现 GPU。"), Remedy: in(l, "Run nvidia-smi on this machine; look at the collector's log for the nvml receiver.", "请在本机运行 nvidia-smi，并查看采集器日志中 nvml 接收器的部分。")})
		return
	}
	switch f.trouble {
	case "down":
		add(view.Condition{ID: "comfyui.down", Severity: view.Broken, Cause: "comfyui.down", Alert: "ComfyUIDown", Server: f.server(0), Since: f.begun, Text: in(l, "ComfyUI at 127.0.0.1:8188 does not respond for 2 min.", "127.0.0.1:8188 上的 ComfyUI 已有 2 分钟无响应。"), Remedy: in(l, "Look at its log, and start it again.", "请查看其日志并重新启动。"), Runbook: "https://example.com/runbooks/ComfyUIDown"})
	case "full":
		add(full, hot)
	case "rush":
		wait := full
		wait.ID, wait.Cause, wait.Severity, wait.Text, wait.Remedy = "queue.long", "queue.long", view.Warning, in(l, "17 prompts wait at 127.0.0.1:8188, the oldest for 19 s.", "127.0.0.1:8188 有 17 个任务在排队，最久已等 19 秒。"), in(l, "Add a server, or send fewer prompts.", "请增加服务，或减少任务。")
		add(full, wait)
		s.Alerts = &view.Alerts{Source: "http://127.0.0.1:9093", Firing: []view.Alert{
			{Name: "ComfyUIQueueLong", Severity: "warning", Summary: in(l, "17 prompts wait", "17 个任务在排队"), Since: f.begun.Add(-time.Minute), Runbook: "https://example.com/r"},
			{Name: "GPUMemoryAlmostFull", Severity: "critical", Summary: in(l, "gpu0 is 98 % full", "gpu0 显存已用 98%"), Since: f.begun.Add(-2 * time.Minute), Runbook: "https://example.com/r"}}}
	case "lost":
		add(view.Condition{ID: "gpu.lost", Severity: view.Broken, Cause: "gpu.lost", GPU: "x", Since: f.begun, Text: in(l, fmt.Sprintf("gpu%d is lost: the driver reports it no longer.", f.gpus-1), fmt.Sprintf("gpu%d 已掉卡：驱动不再报告它。", f.gpus-1)), Remedy: in(l, "Drain the node and reset the GPU, then the host.", "请排空节点并重置 GPU，仍无效则重启主机。"), Runbook: "https://example.com/runbooks/GPULost"})
		s.Events = []view.Event{{Time: f.begun.Add(-4 * time.Minute), Severity: view.Broken, GPU: gpuID(1), Kind: "hw.gpu.xid", XID: 79, Text: in(l, "XID 79: GPU has fallen off the bus", "XID 79：GPU 已从总线掉线"), Remedy: in(l, "Reset the host; if it recurs, replace the GPU.", "请重启主机；若再次发生，请更换 GPU。"), Prompt: slowestID},
			{Time: f.begun.Add(-5 * time.Minute), Severity: view.Warning, GPU: gpuID(1), Kind: "hw.gpu.state", Text: in(l, "The GPU does not respond: a call of the driver hangs.", "GPU 无响应：驱动的一次调用被挂起。")}}
		s.Alerts = &view.Alerts{Source: "http://127.0.0.1:9093", Error: "dial tcp 127.0.0.1:9093: connect: connection refused"}
	case "links": // they differ in nothing but the link
		for i := range 3 {
			s.Conditions = append(s.Conditions, view.Condition{ID: fmt.Sprint("gpu.nvlink.down/", gpuID(0), "//", i), Severity: view.Broken, Cause: "gpu.nvlink.down", GPU: gpuID(0), Since: f.begun, Text: in(l, fmt.Sprintf("NVLink %d of gpu0 is down.", i), fmt.Sprintf("gpu0 的 NVLink %d 已断开。", i))})
		}
		s.Verdict = s.Conditions[0]
	case "stopped":
		add(view.Condition{ID: "gpu.samples.stopped", Severity: view.Warning, Cause: "gpu.samples.stopped", Since: f.begun, Text: in(l, "No sample of any GPU for 42 s.", "所有 GPU 已有 42 秒没有采样。"), Remedy: in(l, "Look at the collector's log for the nvml receiver.", "请查看采集器日志中 nvml 接收器的部分。")})
	}
}

func (f *fixture) Prompts(l texts.Language, q page.Query) view.Prompts {
	answer := view.Prompts{Held: f.prompts, Prompts: []view.Prompt{}, Workflows: []view.Workflow{}}
	for i := range f.prompts {
		p := f.prompt(l, i)
		failed := p.Outcome != "success"
		if q.Slow && !p.Slow || q.Outcome == page.Failed && !failed || q.Outcome == "success" && failed || q.Workflow != "" && q.Workflow != p.Workflow || q.Text != "" && !strings.Contains(p.ID+p.Workflow+p.Model, q.Text) {
			continue
		}
		answer.Matched++
		answer.Prompts = append(answer.Prompts, p)
	}
	if q.Sort == page.Slowest {
		slices.SortStableFunc(answer.Prompts, func(a, b view.Prompt) int { return int(1000 * (b.Duration - a.Duration)) })
	}
	answer.Prompts = answer.Prompts[:min(len(answer.Prompts), q.Limit)]
	if answer.Matched > 0 {
		answer.Workflows = []view.Workflow{{Workflow: "colorize", Prompts: 35, Failed: 5, Median: pointer(2.5), Slowest: pointer(10.2), MemoryPeak: bytesOf(7.9), EnergyMean: pointer(175.0)},
			{Workflow: "upscale and sharpen for print", Prompts: 5, Median: pointer(8.8), Slowest: pointer(9.0), MemoryPeak: bytesOf(14.2), EnergyMean: pointer(12300.0)}}
	}
	return answer
}

func (f *fixture) Rush(context.Context) error { f.rushes.Add(1); return nil }

func (f *fixture) Trace(id string) ([]byte, bool) {
	return []byte(`{"resourceSpans":[]}`), strings.HasPrefix(id, "9f3a")
}

func bytesOf(size float64) *int64 { return pointer(int64(size * gib)) }

// oddGPUs lack figures, or have unusual ones.
func oddGPUs(now time.Time) []view.GPU {
	return []view.GPU{
		{ID: "GPU-bare", Name: "gpu0", Model: "NVIDIA A100-SXM4-80GB", State: "unknown", Severity: view.Warning, Status: "unknown"},
		{ID: "MIG-1", Name: "gpu0/mig1", Model: "NVIDIA A100-SXM4-80GB MIG 3g.40gb", State: "healthy", Severity: view.Fine, Status: "fine", Newest: now, Memory: &view.Memory{Limit: 40 * gib, Free: 40 * gib}},
		{ID: "GPU-long", Name: "gpu15", Model: "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", State: "healthy", Severity: view.Broken, Status: "row remapping failed", Newest: now,
			Memory: &view.Memory{Limit: 192 * gib, Used: 192 * gib, Needed: 100 * gib, Elastic: 50 * gib, Other: 42 * gib, Peak: 192 * gib, PeakTime: now}, Utilization: pointer(1.0), Temperature: &view.Temperature{Value: 104, Limit: pointer(105.0)}, Power: &view.Power{Value: 1187},
			Throttling: []view.Throttling{{Text: "hardware thermal slowdown", Share: 1}, {Text: "power brake", Share: 0.5}},
			Processes: []view.Process{{PID: 4194303, Name: "a-process-with-a-name-that-goes-on-and-on-and-has-no-space-in-it-at-all", Pod: "a-namespace-of-a-team/a-deployment-with-a-long-name-7f9c6d5b4-x2x4z", Memory: 100 * gib},
				{PID: 2, Memory: 2 * gib}, {PID: 3, Name: "python", Memory: gib}, {PID: 4, Name: "python", Memory: gib}, {PID: 5, Name: "Xorg", Memory: 1 << 20}}},
	}
}
