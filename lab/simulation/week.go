// SPDX-License-Identifier: Apache-2.0

package simulation

import (
	"bufio"
	"container/heap"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Week is a photo service over a long time, in virtual time: what the collector would
// have written of it to a store. Its facts are planted, so that a test that reads the
// store can be asked whether he finds them.
type Week struct {
	End         time.Time
	Days        int
	GPUs        int
	IdleGPU     int     // does nothing; -1: none
	PeakHour    int     // of the day, UTC
	MemoryRatio float64 // of buildings to people, in mean peak memory
	Seed        uint64
	// Milliseconds writes times as the older text format has them; without it they are
	// OpenMetrics' seconds.
	Milliseconds bool
}

// weekStep is the distance of the samples.
const weekStep = 5 * time.Minute

// photosPerHour is how many come in the busiest hour.
const photosPerHour = 5000

// WriteTo writes the week as text with times: for promtool tsdb create-blocks-from
// openmetrics, or VictoriaMetrics' import of Prometheus' text.
func (w Week) WriteTo(out io.Writer) (int64, error) {
	b := &weekBuilder{Week: w, random: rand.New(rand.NewPCG(w.Seed, 5)), byName: map[string]*weekSeries{}, histograms: map[string]*weekHistogram{}}
	b.run()
	return b.write(out)
}

type weekSample struct {
	at time.Time
	v  float64
}

type weekBuilder struct {
	Week
	random     *rand.Rand
	all        []*weekSeries
	byName     map[string]*weekSeries
	histograms map[string]*weekHistogram // by name and labels
	now        time.Time
	gpus       []weekGPU
	ends       weekEnds
}

// weekSeries is a series with its labels; value is as of now.
type weekSeries struct {
	name    string
	value   float64
	samples []weekSample
}

type weekHistogram struct {
	sum, count, infinite *weekSeries
	buckets              []*weekSeries // without that of +Inf
}

type weekGPU struct {
	free    time.Time // when its ComfyUI has nothing left to do
	busy    float64   // s since the last sample
	watts   float64
	memory  float64
	waiting int
}

// weekEnd is a prompt that ends at a time.
type weekEnd struct {
	at   time.Time
	done func()
}

type weekEnds []weekEnd

func (e weekEnds) Len() int           { return len(e) }
func (e weekEnds) Less(i, j int) bool { return e[i].at.Before(e[j].at) }
func (e weekEnds) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }

// Push is for package heap.
func (e *weekEnds) Push(x any) { *e = append(*e, x.(weekEnd)) }

// Pop is for package heap.
func (e *weekEnds) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

func (b *weekBuilder) run() {
	b.gpus = make([]weekGPU, b.GPUs)
	b.now = b.End.Add(-time.Duration(b.Days) * 24 * time.Hour)
	for i := range b.gpus {
		b.gpus[i].free = b.now
	}
	for b.sample(); b.now.Before(b.End); b.sample() {
		next := b.now.Add(weekStep)
		for at := b.arrival(b.now); at.Before(next); at = b.arrival(at) {
			b.settle(at)
			b.submit(at)
		}
		b.settle(next)
		b.now = next
	}
}

// shifted is the hour of the service's day: its busiest is PeakHour.
func (b *weekBuilder) shifted(at time.Time) time.Time {
	return at.Add(time.Duration(20-b.PeakHour) * time.Hour)
}

// arrival is when the next photo comes.
func (b *weekBuilder) arrival(after time.Time) time.Time {
	perHour := max(rate(b.shifted(after)), 0.01) * photosPerHour
	return after.Add(time.Duration(b.random.ExpFloat64() / perHour * float64(time.Hour)))
}

func (b *weekBuilder) settle(until time.Time) {
	for len(b.ends) > 0 && !b.ends[0].at.After(until) {
		heap.Pop(&b.ends).(weekEnd).done()
	}
}

// submit gives a photo to the ComfyUI that is free first.
func (b *weekBuilder) submit(at time.Time) {
	best := -1
	for i := range b.gpus {
		if i != b.IdleGPU && (best < 0 || b.gpus[i].free.Before(b.gpus[best].free)) {
			best = i
		}
	}
	c := &b.gpus[best]
	checkpoint := []string{"ddcolor_paper.pth", "ddcolor_paper_tiny.pth", "ddcolor_artistic.pth"}[b.random.IntN(3)]
	side := pick(b.random, b.shifted(at))
	class, mean := "people", 3.0
	if side >= 960 {
		class, mean = "buildings", 3.0*b.MemoryRatio
	}
	memory := mean * (0.9 + 0.2*b.random.Float64()) * (1 << 30)
	_, lasts := demand(side, modelOf(checkpoint))
	lasts = time.Duration(float64(lasts) * (0.95 + 0.1*b.random.Float64()))
	begin := at
	if c.free.After(at) {
		begin = c.free
	}
	c.free = begin.Add(lasts)
	c.waiting++
	size := "<=" + strconv.Itoa(map[string]int{"people": 680, "buildings": 1280}[class])
	wait, seconds, watts := begin.Sub(at).Seconds(), lasts.Seconds(), 210+60*b.random.Float64()
	outcome := "success"
	if b.random.IntN(200) == 0 {
		outcome = "interrupted"
	}
	heap.Push(&b.ends, weekEnd{c.free, func() {
		c.waiting--
		c.busy += seconds
		c.watts += watts * seconds
		c.memory = max(c.memory, memory)
		of := labels("comfyui", best, "comfyui_workflow_id", "8f1c", "comfyui_task_class", class, "comfyui_model", checkpoint)
		b.series("comfyui_prompts_total"+with(of, "comfyui_prompt_outcome", outcome)).value++
		b.observe("comfyui_queue_duration_seconds", of, wait, durations)
		b.observe("comfyui_execution_duration_seconds", of, seconds, durations)
		of = with(of, "comfyui_image_size_class", size, "hw_id", weekGPUID(best))
		b.observe("comfyui_execution_memory_need_bytes", of, memory, []float64{2e9, 4e9, 6e9, 8e9, 10e9, 12e9, 16e9})
		b.observe("comfyui_execution_gpu_memory_peak_bytes", of, c.memory, []float64{2e9, 4e9, 6e9, 8e9, 10e9, 12e9, 16e9})
		b.observe("comfyui_execution_gpu_energy_joules", of, watts*seconds, []float64{50, 100, 200, 400, 800})
		b.observe("comfyui_execution_gpu_time_seconds", of, seconds, durations)
	}})
}

var durations = []float64{0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60}

func weekGPUID(i int) string { return fmt.Sprintf("GPU-00000000-0000-4000-8000-%012x", i+1) }

// labels are those of a series of one GPU's ComfyUI, or of the GPU.
func labels(job string, gpu int, more ...string) string {
	instance := "node-1"
	if job == "comfyui" {
		instance = fmt.Sprintf("node-1:%d", 8188+gpu)
	}
	return with("{}", append([]string{"job", job, "instance", instance, "gpu_simulated", "true"}, more...)...)
}

// with adds labels to those of a series.
func with(of string, more ...string) string {
	var text strings.Builder
	text.WriteString(strings.TrimSuffix(of, "}"))
	for i := 0; i+1 < len(more); i += 2 {
		if text.Len() > 1 {
			text.WriteByte(',')
		}
		fmt.Fprintf(&text, "%s=%q", more[i], more[i+1])
	}
	return text.String() + "}"
}

// series is the series of a name with labels.
func (b *weekBuilder) series(name string) *weekSeries {
	s, ok := b.byName[name]
	if !ok {
		s = &weekSeries{name: name}
		b.byName[name] = s
		b.all = append(b.all, s)
	}
	return s
}

// observe adds an observation to a histogram, whose series are named once.
func (b *weekBuilder) observe(name, of string, v float64, buckets []float64) {
	h, ok := b.histograms[name+of]
	if !ok {
		h = &weekHistogram{sum: b.series(name + "_sum" + of), count: b.series(name + "_count" + of), infinite: b.series(name + "_bucket" + with(of, "le", "+Inf"))}
		for _, le := range buckets {
			h.buckets = append(h.buckets, b.series(name+"_bucket"+with(of, "le", strconv.FormatFloat(le, 'g', -1, 64))))
		}
		b.histograms[name+of] = h
	}
	h.sum.value += v
	h.count.value++
	h.infinite.value++
	for i, le := range buckets {
		if v <= le {
			h.buckets[i].value++
		}
	}
}

// sample appends a sample of every series.
func (b *weekBuilder) sample() {
	const idleWatts = 35
	for i := range b.gpus {
		c := &b.gpus[i]
		of := labels("otelcol-gpu", i, "hw_id", weekGPUID(i), "hw_name", "gpu"+strconv.Itoa(i))
		b.series("hw_gpu_up" + of).value = 1
		b.series("hw_gpu_memory_limit_bytes" + of).value = 24 << 30
		b.series("hw_gpu_memory_usage_bytes" + of).value = 0.5*(1<<30) + c.memory
		b.series("hw_gpu_utilization_mean_ratio" + with(of, "hw_gpu_task", "general")).value = 0.9 * min(c.busy/weekStep.Seconds(), 1)
		b.series("hw_energy_joules_total" + with(of, "hw_type", "gpu")).value += c.watts + idleWatts*max(weekStep.Seconds()-c.busy, 0)
		if i != b.IdleGPU {
			running := min(c.waiting, 1)
			b.series("comfyui_queue_length" + labels("comfyui", i, "state", "running")).value = float64(running)
			b.series("comfyui_queue_length" + labels("comfyui", i, "state", "pending")).value = float64(c.waiting - running)
		}
		c.busy, c.watts = 0, 0
	}
	for _, s := range b.all {
		s.samples = append(s.samples, weekSample{b.now, s.value})
	}
}

func (b *weekBuilder) write(to io.Writer) (n int64, err error) {
	out := bufio.NewWriterSize(to, 1<<16)
	slices.SortFunc(b.all, func(x, y *weekSeries) int { return strings.Compare(x.name, y.name) })
	var line []byte
	for _, series := range b.all {
		for _, s := range series.samples {
			at := s.at.Unix()
			if b.Milliseconds {
				at = s.at.UnixMilli()
			}
			line = append(append(line[:0], series.name...), ' ')
			line = append(strconv.AppendFloat(line, s.v, 'g', -1, 64), ' ')
			line = append(strconv.AppendInt(line, at, 10), '\n')
			wrote, err := out.Write(line)
			n += int64(wrote)
			if err != nil {
				return n, err
			}
		}
	}
	wrote, err := out.WriteString("# EOF\n")
	if err == nil {
		err = out.Flush()
	}
	return n + int64(wrote), err
}
