// SPDX-License-Identifier: Apache-2.0

package prompt

import (
	"fmt"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/loading"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/sizing"
)

// Saved is the stored form of a prompt, from which another process can follow it, or emit
// its trace if it has ended.
type Saved struct {
	// ID is empty until the server has answered, unless the caller chose it.
	ID       string    `json:"id"`
	Received time.Time `json:"received"`
	TraceID  string    `json:"trace_id"`
	// SpanID is the root span's id; ParentID that of the caller's span.
	SpanID     string `json:"span_id"`
	ParentID   string `json:"parent_id,omitempty"`
	TraceFlags byte   `json:"flags,omitempty"`
	ClientID   string `json:"client_id,omitempty"`
	// Content is the hash by which a prompt without an answer is found.
	Content   uint64        `json:"content,omitempty"`
	NodeIDs   uint64        `json:"node_ids,omitempty"`
	TaskClass string        `json:"task_class,omitempty"`
	Workflow  string        `json:"workflow,omitempty"`
	Sizing    sizing.Sizing `json:"sizing,omitzero"`
	Nodes     [][3]string   `json:"nodes,omitempty"` // id, class, title
	Path      string        `json:"path,omitempty"`
	// Admission is what the receiver's advisor said of it.
	Admission *Admission `json:"admission,omitempty"`
	// Input is what was found about its images.
	Input *Input `json:"input,omitempty"`
	// Claimed is the task class that the request of a prompt which was polled named.
	Claimed string `json:"claimed,omitempty"`

	// Status and Answered are set with the server's answer.
	Status   int       `json:"status,omitempty"`
	Answered time.Time `json:"answered,omitzero"`
	Number   float64   `json:"number,omitempty"`
	Ahead    int       `json:"ahead,omitempty"`
	// Found is true if the answer was not seen, and the prompt was found at the server.
	Found   bool     `json:"found,omitempty"`
	Refused []string `json:"refused,omitempty"`

	// Outcome and all below are set when the prompt has ended.
	Outcome   Outcome        `json:"outcome,omitempty"`
	Started   time.Time      `json:"started,omitzero"`
	Ended     time.Time      `json:"ended,omitzero"`
	Failure   protocol.Error `json:"failure,omitzero"`
	Cached    []string       `json:"cached,omitempty"`
	Runs      []Node         `json:"runs,omitempty"`
	Outputs   map[string]int `json:"outputs,omitempty"`
	Recovered bool           `json:"recovered,omitempty"`
	Loading   loading.Loaded `json:"loading,omitzero"`
	// FirstSteps is in nanoseconds.
	FirstSteps time.Duration `json:"first_steps,omitempty"`
	Retried    Retried       `json:"retried,omitzero"`
}

// maxSavedNodes bounds the nodes and runs that are stored of a prompt.
const maxSavedNodes = 512

// Save is the stored form of a prompt that has not been submitted yet, or has ended.
func (p *Prompt) Save() Saved {
	s := Saved{
		ID: p.ID, Received: p.Received, TraceID: p.Context.TraceID().String(), SpanID: p.Context.SpanID().String(),
		TraceFlags: byte(p.Context.TraceFlags()), ClientID: p.Submission.ClientID, Content: p.Submission.Content, NodeIDs: p.Submission.NodeIDs,
		TaskClass: p.Submission.TaskClass, Workflow: p.Submission.Workflow, Sizing: p.Sizing, Path: p.Path,
		Status: p.HTTPStatus, Answered: p.Answered, Number: p.Answer.Number, Ahead: p.Ahead, Refused: p.Answer.Refused,
		Outcome: p.Outcome, Recovered: p.Recovered, Found: p.Found, Admission: p.Admission, Input: p.Input, Claimed: p.Claimed,
	}
	if s.ID == "" {
		s.ID = p.Submission.PromptID
	}
	if p.Parent.IsValid() {
		s.ParentID = p.Parent.SpanID().String()
	}
	for _, n := range p.Submission.Nodes[:min(len(p.Submission.Nodes), maxSavedNodes)] {
		s.Nodes = append(s.Nodes, [3]string{n.ID, n.Class, n.Title})
	}
	if p.Outcome == "" {
		return s
	}
	s.Started, s.Ended, s.Failure, s.Cached, s.Outputs = p.Started, p.Ended, p.Failure, p.Cached, p.Outputs
	s.Loading, s.FirstSteps, s.Retried = p.Loading, p.FirstSteps, p.Retried
	for _, n := range p.Nodes[:min(len(p.Nodes), maxSavedNodes)] {
		s.Runs = append(s.Runs, *n)
	}
	return s
}

// SaveAnswered is the stored form of a prompt that the server has accepted.
func (p *Prompt) SaveAnswered(now time.Time, status int, a protocol.Answer) Saved {
	s := p.Save()
	s.ID, s.Status, s.Answered, s.Number, s.Refused = a.PromptID, status, now, a.Number, a.Refused
	return s
}

// Prompt is the prompt that was stored. Its contexts are invalid if the stored ids are.
func (s *Saved) Prompt() *Prompt {
	p := &Prompt{
		Request: Request{Submission: s.submission(), Path: s.Path, Parent: s.context(s.ParentID), Admission: s.Admission, Input: s.Input},
		ID:      s.ID, Context: s.context(s.SpanID), Sizing: s.Sizing,
		Answer:     protocol.Answer{PromptID: s.ID, Number: s.Number, Refused: s.Refused},
		HTTPStatus: s.Status, Received: s.Received, Answered: s.Answered, Started: s.Started, Ended: s.Ended,
		Outcome: s.Outcome, Failure: s.Failure, Cached: s.Cached, Outputs: s.Outputs, Recovered: s.Recovered || s.Outcome == "", Found: s.Found,
		Loading: s.Loading, FirstSteps: s.FirstSteps, Retried: s.Retried, Ahead: s.Ahead, Claimed: s.Claimed,
	}
	if p.Answered.IsZero() {
		p.Answered = p.Received
	}
	for i := range s.Runs {
		p.Nodes = append(p.Nodes, &s.Runs[i])
	}
	return p
}

func (s *Saved) submission() protocol.Submission {
	sub := protocol.Submission{PromptID: s.ID, ClientID: s.ClientID, TaskClass: s.TaskClass, Workflow: s.Workflow, Content: s.Content, NodeIDs: s.NodeIDs}
	for _, n := range s.Nodes {
		sub.Nodes = append(sub.Nodes, protocol.Node{ID: n[0], Class: n[1], Title: n[2]})
	}
	return sub
}

func (s *Saved) context(spanID string) trace.SpanContext {
	return ParseTraceparent(fmt.Sprintf("00-%s-%s-%02x", s.TraceID, spanID, s.TraceFlags))
}
