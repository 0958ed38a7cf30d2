// SPDX-License-Identifier: Apache-2.0

package report

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Traces is a trace store with Jaeger's query API.
type Traces struct {
	URL    string
	Client *http.Client
}

// Slow is a slow image, with the reason.
type Slow struct {
	TraceID, Prompt, Outcome, Class, Model string
	Side                                   float64 // pixels
	Begin                                  time.Time
	Total, Wait, Execution                 float64 // s
	Billed                                 bool    // its GPU figures are known
	Energy, Memory, Throttled              float64 // J, By, s
	MemoryIs                               string  // MemoryNeeded or MemoryHeld
	Spans                                  []SlowSpan
	Omitted                                bool // there are more spans than Spans shows
}

// SlowSpan is one span of an image's trace; parents come before their children.
type SlowSpan struct {
	Name           string
	Depth          int
	From, Part     float64 // of the whole, in percent
	Duration       float64 // s
	Billed         bool
	Energy, Memory float64
}

// MaxSlow is the number of slow images in the report.
const MaxSlow = 10

// Bounds of one query of the trace store.
const (
	maxTraces     = 200
	maxTraceBytes = 256 << 20
)

// Slowest returns the n slowest images of a time range, the slowest first. The API does
// not sort: the query has a minimum duration, which is lowered until there are enough.
func (t Traces) Slowest(ctx context.Context, from, to time.Time, n int) ([]Slow, error) {
	for least := time.Hour; ; least /= 4 {
		if least < 10*time.Millisecond {
			least = 0
		}
		all, err := t.query(ctx, from, to, least)
		if err != nil {
			return nil, err
		}
		if len(all) >= n || least == 0 {
			slices.SortFunc(all, func(a, b Slow) int { return cmp.Compare(b.Total, a.Total) })
			return all[:min(n, len(all))], nil
		}
	}
}

func (t Traces) query(ctx context.Context, from, to time.Time, least time.Duration) ([]Slow, error) {
	values := url.Values{
		"service": {"comfyui"}, "operation": {rootName}, "limit": {strconv.Itoa(maxTraces)},
		"start": {strconv.FormatInt(from.UnixMicro(), 10)}, "end": {strconv.FormatInt(to.UnixMicro(), 10)},
	}
	if least > 0 {
		values.Set("minDuration", least.String())
	}
	address := strings.TrimSuffix(t.URL, "/") + "/api/traces?" + values.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	response, err := t.Client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("query the trace store: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("query the trace store: %s returned %s; use the URL of Jaeger's query API, for example http://127.0.0.1:16686", t.URL, response.Status)
	}
	all, err := parseTraces(io.LimitReader(response.Body, maxTraceBytes))
	if err != nil {
		return nil, fmt.Errorf("query the trace store: %s did not return traces; use the URL of Jaeger's query API, for example http://127.0.0.1:16686: %w", t.URL, err)
	}
	return slices.DeleteFunc(all, func(s Slow) bool { return s.Total < least.Seconds() }), nil
}

// parseTraces reads the images of an answer of Jaeger's query API.
func parseTraces(in io.Reader) (all []Slow, err error) {
	var answer struct {
		Data []struct {
			TraceID string       `json:"traceID"`
			Spans   []jaegerSpan `json:"spans"`
		} `json:"data"`
	}
	if err := json.NewDecoder(in).Decode(&answer); err != nil {
		return nil, err
	}
	for _, trace := range answer.Data {
		all = append(all, images(trace.TraceID, trace.Spans)...)
	}
	return all, nil
}

// The spans of the comfyui receiver.
const (
	rootName      = "comfyui.prompt"
	queueName     = "comfyui.queue"
	executionName = "comfyui.execution"
	nodePrefix    = "comfyui.node "
)

// jaegerSpan is a span as Jaeger's query API returns it, times in microseconds.
type jaegerSpan struct {
	SpanID        string `json:"spanID"`
	OperationName string `json:"operationName"`
	StartTime     int64  `json:"startTime"`
	Duration      int64  `json:"duration"`
	References    []struct {
		RefType string `json:"refType"`
		SpanID  string `json:"spanID"`
	} `json:"references"`
	Tags []struct {
		Key   string `json:"key"`
		Value any    `json:"value"`
	} `json:"tags"`
}

func (s *jaegerSpan) text(key string) string {
	for _, t := range s.Tags {
		if text, ok := t.Value.(string); ok && t.Key == key {
			return text
		}
	}
	return ""
}

func (s *jaegerSpan) number(key string) (v float64, ok bool) {
	for _, t := range s.Tags {
		if n, isNumber := t.Value.(float64); isNumber && t.Key == key {
			return n, true
		}
	}
	return 0, false
}

func (s *jaegerSpan) atLeast(key string, least float64) bool {
	v, ok := s.number(key)
	return ok && v >= least
}

// images are the prompts of a trace; the caller's own spans may be in it too.
func images(traceID string, spans []jaegerSpan) (all []Slow) {
	below := map[string][]*jaegerSpan{}
	for i := range spans {
		for _, r := range spans[i].References {
			if r.RefType == "CHILD_OF" {
				below[r.SpanID] = append(below[r.SpanID], &spans[i])
			}
		}
	}
	for _, inside := range below {
		slices.SortStableFunc(inside, func(a, b *jaegerSpan) int { return cmp.Compare(a.StartTime, b.StartTime) })
	}
	rows := maxRows
	for i := range spans {
		root := &spans[i]
		if root.OperationName != rootName {
			continue
		}
		s := Slow{
			TraceID: traceID, Prompt: root.text("comfyui.prompt.id"), Outcome: root.text("comfyui.prompt.outcome"), Class: root.text("comfyui.task_class"),
			Model: root.text("comfyui.model"), Begin: time.UnixMicro(root.StartTime), Total: float64(root.Duration) / 1e6,
		}
		s.Side, _ = root.number("comfyui.image.side")
		s.Energy, s.Billed = root.number("gpu.energy")
		s.Memory, _ = root.number("gpu.memory.peak")
		s.MemoryIs = MemoryHeld
		s.Throttled, _ = root.number("gpu.throttle.time")
		if kind := root.text("error.type"); kind != "" {
			s.Outcome += " (" + strings.ReplaceAll(kind, "_", " ") + ")"
		}
		walk := walk{root: root, below: below, visited: map[*jaegerSpan]bool{}, rows: &rows}
		walk.add(&s, root, 0)
		all = append(all, s)
	}
	return all
}

const (
	// maxDepth bounds how deep spans of a broken trace can lie in each other.
	maxDepth = 64
	// maxRows bounds the spans that the images of one trace show.
	maxRows = 10_000
)

// walk visits the spans below one root, each once: ids that are used twice make circles.
type walk struct {
	root    *jaegerSpan
	below   map[string][]*jaegerSpan
	visited map[*jaegerSpan]bool
	rows    *int // that the trace may still show
}

func (w *walk) add(s *Slow, span *jaegerSpan, depth int) {
	if w.visited[span] {
		return
	}
	if depth > maxDepth || *w.rows == 0 {
		s.Omitted = true
		return
	}
	w.visited[span] = true
	*w.rows--
	root := w.root
	item := SlowSpan{Name: span.OperationName, Depth: depth, Duration: float64(span.Duration) / 1e6, Part: 100}
	if root.Duration > 0 {
		item.From = 100 * float64(span.StartTime-root.StartTime) / float64(root.Duration)
		item.Part = 100 * float64(span.Duration) / float64(root.Duration)
	}
	item.Energy, item.Billed = span.number("gpu.energy")
	item.Memory, _ = span.number("gpu.memory.peak")
	s.Spans = append(s.Spans, item)
	switch span.OperationName {
	case queueName:
		s.Wait += item.Duration
	case executionName:
		s.Execution += item.Duration
		// Of fewer than three executions it is a guess.
		if need, ok := span.number("comfyui.memory.need"); ok && span.atLeast("comfyui.memory.need.executions", 3) {
			s.Memory, s.MemoryIs = need, MemoryNeeded
		}
	}
	for _, child := range w.below[span.SpanID] {
		if s.Omitted && *w.rows == 0 {
			return
		}
		w.add(s, child, depth+1)
	}
}

// Why names what most of the time was spent on, the wait or a node, and how long the GPU
// was throttled.
func (s *Slow) Why() string {
	if s.Total == 0 {
		return ""
	}
	share := func(v float64) string { return fmt.Sprintf("%.0f %%", 100*v/s.Total) }
	if s.Wait >= s.Total/2 {
		return "waited for others: " + share(s.Wait)
	}
	node := SlowSpan{}
	for _, item := range s.Spans {
		if strings.HasPrefix(item.Name, nodePrefix) && item.Duration > node.Duration {
			node = item
		}
	}
	why := "execution: " + share(s.Execution)
	switch {
	case node.Duration >= s.Total/4:
		why = strings.TrimPrefix(node.Name, nodePrefix) + ": " + share(node.Duration)
	case s.Execution < s.Total/4:
		why = "neither wait nor execution: " + share(s.Total-s.Wait-s.Execution)
	}
	if s.Execution > 0 && s.Throttled >= s.Execution/20 {
		why += fmt.Sprintf(", the GPU throttled for %.0f %% of its execution", 100*s.Throttled/s.Execution)
	}
	return why
}
