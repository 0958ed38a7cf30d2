// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// Known reports which prompts of the queue or the history need not be read: only their
// ids are.
type Known interface{ Has(promptID string) bool }

// All is a [Known] that reads all prompts.
type All struct{}

// Has implements [Known].
func (All) Has(string) bool { return false }

// Place is where in the server's queue a prompt is.
type Place uint8

// The places of a prompt.
const (
	NotQueued Place = iota
	Pending
	Running
)

// Queue is the answer of GET /queue: where all prompts are by their ids, and those that are
// not known.
type Queue struct {
	IDs     map[string]Place
	Prompts []Submission
}

// maxQueue bounds the prompts of the queue and of the history that are read at a time.
const maxQueue = 100_000

var errTooMany = errors.New("the answer holds too many prompts")

// ParseQueue reads the answer of GET /queue.
func (b Bounds) ParseQueue(body io.Reader, known Known) (Queue, error) {
	d, q := newDocument(&lenientReader{from: body}), Queue{IDs: map[string]Place{}}
	isQueue := false
	err := d.object(func(name string) error {
		if name != "queue_running" && name != "queue_pending" {
			return d.SkipValue()
		}
		isQueue = true
		place := Pending
		if name == "queue_running" {
			place = Running
		}
		return d.array(func(int) error {
			p, ok, err := b.readQueued(d, known)
			if !ok {
				return err
			}
			if q.IDs[p.PromptID] = place; len(q.IDs) > maxQueue {
				return errTooMany
			}
			if !known.Has(p.PromptID) {
				q.Prompts = append(q.Prompts, p)
			}
			return err
		})
	})
	if err == nil && !isQueue {
		err = errors.New("it is not a queue")
	}
	if err != nil {
		return Queue{}, fmt.Errorf("read /queue: %w", err)
	}
	return q, nil
}

// readQueued reads [number, prompt_id, prompt, extra_data, outputs_to_execute, …]. Of a
// known prompt only the id is read.
func (b Bounds) readQueued(d document, known Known) (p Submission, ok bool, err error) {
	skip := false
	err = d.array(func(i int) (err error) {
		switch {
		case i == 1:
			err = d.text(&p.PromptID)
			ok = p.PromptID != "" && len(p.PromptID) <= MaxID
			skip = !ok || known.Has(p.PromptID)
		case i == 2 && !skip:
			err = b.readNodes(d, &p)
		case i == 3 && !skip:
			id, workflow := p.PromptID, p.Workflow
			p.Workflow = ""
			p.ClientID, err = b.readExtra(d, &p)
			p.PromptID = id
			if p.Workflow == "" {
				p.Workflow = workflow
			}
		default:
			err = d.SkipValue()
		}
		return err
	})
	if ok && !skip {
		b.finish(&p)
	}
	return p, ok, err
}

// ParseLength reads the answer of GET /prompt: the length of the queue, the running prompt
// included.
func ParseLength(body io.Reader) (int, error) {
	var m Message
	if err := m.readStatus(newDocument(&lenientReader{from: body})); err != nil {
		return 0, fmt.Errorf("read /prompt: %w", err)
	}
	if !m.HasRemaining {
		return 0, errors.New("read /prompt: the answer has no exec_info.queue_remaining")
	}
	return m.Remaining, nil
}

// ParseJobs reads the ids of GET /api/jobs?status=pending,in_progress.
func ParseJobs(body io.Reader) (ids map[string]Place, err error) {
	d := newDocument(&lenientReader{from: body})
	err = d.object(func(name string) error {
		if name != "jobs" || d.PeekKind() != '[' {
			return d.SkipValue()
		}
		ids = map[string]Place{}
		return d.array(func(int) error {
			var id, status string
			err := d.object(func(name string) error {
				switch name {
				case "id":
					return d.text(&id)
				case "status":
					return d.text(&status)
				}
				return d.SkipValue()
			})
			place := Pending
			if status == "in_progress" {
				place = Running
			}
			if ids[id] = place; len(ids) > maxQueue {
				return errTooMany
			}
			return err
		})
	})
	if err == nil && ids == nil {
		err = errors.New("the answer has no jobs")
	}
	if err != nil {
		return nil, fmt.Errorf("read /api/jobs: %w", err)
	}
	return ids, nil
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
	i := slices.IndexFunc(f.Messages, func(m Message) bool { return slices.Contains(kinds, m.Kind) && m.Error.Type != Blocked })
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

// History is the answer of GET /history or /history/{prompt_id}: how many entries it has,
// and those that are not known.
type History struct {
	Entries  int
	Finished map[string]*Finished
}

// ParseHistory reads the answer of GET /history or /history/{prompt_id}.
func (b Bounds) ParseHistory(body io.Reader, known Known) (History, error) {
	d, h := newDocument(&lenientReader{from: body}), History{Finished: map[string]*Finished{}}
	if d.PeekKind() != '{' {
		return h, errors.New("read /history: the answer is not an object")
	}
	err := d.object(func(id string) error {
		if h.Entries++; h.Entries > maxQueue {
			return errTooMany
		}
		if known.Has(id) || len(id) > MaxID {
			return d.SkipValue()
		}
		f, err := b.readFinished(d)
		f.PromptID = id
		h.Finished[id] = f
		return err
	})
	if err != nil {
		return History{}, fmt.Errorf("read /history: %w", err)
	}
	return h, nil
}

func (b Bounds) readFinished(d document) (*Finished, error) {
	f := &Finished{Outputs: map[string]int{}}
	err := d.object(func(name string) (err error) {
		switch name {
		case "prompt":
			f.Submission, _, err = b.readQueued(d, All{})
		case "outputs":
			err = d.object(func(string) error {
				counts, err := b.readOutputs(d)
				for kind, n := range counts {
					if _, known := f.Outputs[kind]; known || len(f.Outputs) < maxOutputs {
						f.Outputs[kind] += n
					}
				}
				return err
			})
		case "status":
			err = b.readHistoryStatus(d, f)
		default:
			err = d.SkipValue()
		}
		return err
	})
	return f, err
}

// maxMessages bounds the messages of an entry of the history. A prompt has three, and one
// for each blocked node.
const maxMessages = 256

func (b Bounds) readHistoryStatus(d document, f *Finished) error {
	return d.object(func(name string) error {
		switch name {
		case "status_str":
			return d.text(&f.Status)
		case "messages":
			return d.array(func(int) error {
				var m Message
				err := d.array(func(i int) error { // [type, data]
					switch i {
					case 0:
						var kind string
						err := d.text(&kind)
						m.Kind = Kind(kind)
						return err
					case 1:
						return b.readData(d, &m)
					}
					return d.SkipValue()
				})
				m.finish(b)
				// the last one ends the prompt
				if m.Kind.Known() && (len(f.Messages) < maxMessages || m.Error.Type != Blocked) {
					f.Messages = append(f.Messages[:min(len(f.Messages), maxMessages)], m)
				}
				return err
			})
		}
		return d.SkipValue()
	})
}

// ParseAPINode reads from the answer of GET /object_info/{class} whether nodes of the class
// run elsewhere.
func ParseAPINode(body io.Reader) (isAPI bool, err error) {
	d := newDocument(&lenientReader{from: body})
	err = d.object(func(string) error {
		return d.object(func(name string) error {
			if name == "api_node" {
				isAPI = d.PeekKind() == 't'
			}
			return d.SkipValue()
		})
	})
	if err != nil {
		return false, fmt.Errorf("read /object_info: %w", err)
	}
	return isAPI, nil
}

// Removal is a client's request to remove prompts from the queue or the history.
type Removal struct {
	Clear  bool
	Delete []string
}

// ParseRemoval reads the body of POST /queue, POST /history or POST /api/jobs/cancel.
func ParseRemoval(body io.Reader) (r Removal) {
	d := newDocument(&lenientReader{from: body})
	_ = d.object(func(name string) error { // what cannot be read is empty
		switch name {
		case "clear":
			r.Clear = d.PeekKind() == 't'
			return d.SkipValue()
		case "delete", "job_ids":
			r.Delete = nil
			return d.array(func(int) error {
				var id string
				err := d.text(&id)
				if id != "" && len(r.Delete) < maxQueue {
					r.Delete = append(r.Delete, id)
				}
				return err
			})
		}
		return d.SkipValue()
	})
	return r
}
