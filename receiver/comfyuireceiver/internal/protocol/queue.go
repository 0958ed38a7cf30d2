// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Queue is the answer of GET /queue.
type Queue struct{ Running, Pending []Submission }

// All are all prompts of the queue.
func (q *Queue) All() []Submission { return slices.Concat(q.Running, q.Pending) }

// ParseQueue reads the answer of GET /queue.
func ParseQueue(body []byte) (Queue, error) {
	var w struct {
		Running []json.RawMessage `json:"queue_running"`
		Pending []json.RawMessage `json:"queue_pending"`
	}
	if err := json.Unmarshal(body, &w); err != nil {
		return Queue{}, fmt.Errorf("read /queue: %w", err)
	}
	return Queue{Running: parseList(w.Running), Pending: parseList(w.Pending)}, nil
}

func parseList(list []json.RawMessage) (all []Submission) {
	for _, raw := range list {
		if p, ok := parseQueued(raw); ok {
			all = append(all, p)
		}
	}
	return all
}

// parseQueued reads [number, prompt_id, prompt, extra_data, outputs_to_execute].
func parseQueued(raw json.RawMessage) (p Submission, ok bool) {
	var items []json.RawMessage
	if json.Unmarshal(raw, &items) != nil || len(items) < 3 || json.Unmarshal(items[1], &p.PromptID) != nil || p.PromptID == "" {
		return p, false
	}
	if len(items) > 3 {
		p.readExtra(items[3])
	}
	p.readNodes(items[2])
	return p, true
}

// Finished is one entry of /history.
type Finished struct {
	Submission
	// Messages are the server's messages about the prompt, with its times.
	Messages []Message
	// Status is "success" or "error".
	Status string
	// Outputs counts the outputs by kind.
	Outputs map[string]int
}

// Find returns the first message of one of the kinds.
func (f *Finished) Find(kinds ...Kind) (Message, bool) {
	i := slices.IndexFunc(f.Messages, func(m Message) bool { return slices.Contains(kinds, m.Kind) })
	if i < 0 {
		return Message{}, false
	}
	return f.Messages[i], true
}

// End is the message that ended the prompt.
func (f *Finished) End() (Message, bool) {
	return f.Find(ExecutionSuccess, ExecutionError, ExecutionInterrupted)
}

// Start is when the server started to execute the prompt; zero if it is unknown.
func (f *Finished) Start() time.Time {
	m, _ := f.Find(ExecutionStart)
	return m.At
}

// ParseHistory reads the answer of GET /history or /history/{prompt_id}.
func ParseHistory(body []byte) (map[string]Finished, error) {
	var w map[string]struct {
		Prompt  json.RawMessage                       `json:"prompt"`
		Outputs map[string]map[string]json.RawMessage `json:"outputs"`
		Status  struct {
			Status   string              `json:"status_str"`
			Messages [][]json.RawMessage `json:"messages"`
		} `json:"status"`
	}
	if err := json.Unmarshal(body, &w); err != nil {
		return nil, fmt.Errorf("read /history: %w", err)
	}
	all := make(map[string]Finished, len(w))
	for id, entry := range w {
		f := Finished{Status: entry.Status.Status, Outputs: map[string]int{}}
		f.Submission, _ = parseQueued(entry.Prompt)
		f.PromptID = id
		for _, byKind := range entry.Outputs {
			for kind, n := range outputs(byKind) {
				f.Outputs[kind] += n
			}
		}
		for _, pair := range entry.Status.Messages {
			if len(pair) != 2 {
				continue
			}
			text := append(append(append([]byte(`{"type":`), pair[0]...), `,"data":`...), pair[1]...)
			if m, ok := ParseMessage(append(text, '}')); ok {
				f.Messages = append(f.Messages, m)
			}
		}
		all[id] = f
	}
	return all, nil
}

// Removal is a client's request to remove prompts from the queue.
type Removal struct {
	Clear  bool     `json:"clear"`
	Delete []string `json:"delete"`
}

// ParseRemoval reads the body of POST /queue.
func ParseRemoval(body []byte) (r Removal) {
	_ = json.Unmarshal(body, &r)
	return r
}

// Device is one device of /system_stats, in bytes.
type Device struct {
	Type       string  `json:"type"`
	Index      *int    `json:"index"` // nil for a processor
	Total      float64 `json:"vram_total"`
	Free       float64 `json:"vram_free"`
	TorchTotal float64 `json:"torch_vram_total"`
	TorchFree  float64 `json:"torch_vram_free"`
}

// ParseSystemStats reads the devices of GET /system_stats.
func ParseSystemStats(body []byte) ([]Device, error) {
	var w struct {
		Devices []Device `json:"devices"`
	}
	if err := json.Unmarshal(body, &w); err != nil {
		return nil, fmt.Errorf("read /system_stats: %w", err)
	}
	return w.Devices, nil
}
