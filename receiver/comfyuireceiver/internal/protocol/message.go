// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"time"
)

// Kind is a message's type on the WebSocket.
type Kind string

// The messages that describe a prompt's life, and status.
const (
	Status               Kind = "status"
	ExecutionStart       Kind = "execution_start"
	ExecutionCached      Kind = "execution_cached"
	Executing            Kind = "executing"
	Progress             Kind = "progress"
	ProgressState        Kind = "progress_state"
	Executed             Kind = "executed"
	ExecutionSuccess     Kind = "execution_success"
	ExecutionError       Kind = "execution_error"
	ExecutionInterrupted Kind = "execution_interrupted"
)

// Known reports whether ComfyUI sends messages of this kind. Others come from custom nodes
// and from newer servers.
func (k Kind) Known() bool {
	switch k {
	case Status, ExecutionStart, ExecutionCached, Executing, Progress, ProgressState, Executed,
		ExecutionSuccess, ExecutionError, ExecutionInterrupted, "feature_flags", "logs", "progress_text":
		return true
	}
	return false
}

// Message is one text frame of the server.
type Message struct {
	Kind     Kind
	PromptID string
	// SID is the client id that the server gave to the socket (status).
	SID string
	// At is the server's time; zero where the message carries none.
	At time.Time
	// Node is the node that the message is about. NoNode is true for "executing" with a
	// null node, which ends a prompt, and false if the field is missing.
	Node, DisplayNode string
	NoNode            bool
	// Value and Max are a node's steps (progress).
	Value, Max float64
	// Nodes are the ids of cached nodes (execution_cached).
	Nodes []string
	// States are all nodes of the prompt so far (progress_state).
	States map[string]NodeState
	// Outputs counts a node's outputs by kind (executed).
	Outputs map[string]int
	// Error describes a failure (execution_error, execution_interrupted).
	Error Error
	// Remaining is the length of the queue, the running prompt included (status);
	// HasRemaining is false if it is unknown.
	Remaining    int
	HasRemaining bool
}

// NodeState is one node in a progress_state.
type NodeState struct {
	Value, Max float64
	// pending, running, finished, error
	State           string
	Display, Parent string
}

// Error is a failure as the server describes it.
type Error struct {
	NodeID, NodeType string
	Type, Message    string
	Traceback        []string
}

// Blocked is the type of an execution_error by which a node is blocked on purpose
// (ExecutionBlocker with a message): the prompt goes on.
const Blocked = "ExecutionBlocked"

// ParseMessage reads one text frame. It reports false for text that is not a message. A
// message of an unknown kind is empty but for its kind.
func (b Bounds) ParseMessage(text []byte) (Message, bool) {
	d, m, hasType := newDocument(lenient(text)), Message{}, false
	if d.PeekKind() != '{' {
		return Message{}, false
	}
	err := d.object(func(name string) (err error) {
		switch name {
		case "type":
			hasType = d.PeekKind() == '"'
			var kind string
			err = d.text(&kind)
			m.Kind = Kind(kind)
		case "data":
			err = b.readData(d, &m)
		default:
			err = d.SkipValue()
		}
		return err
	})
	if err != nil || d.end() != nil || !hasType {
		return Message{}, false
	}
	m.finish(b)
	return m, true
}

// finish bounds the texts and removes the fields that are not of the message's kind.
func (m *Message) finish(b Bounds) {
	id, node := m.Error.NodeID, m.Node
	switch m.Kind {
	case ExecutionError, ExecutionInterrupted:
		m.Node = id
		b.bound(&m.Error)
	default:
		m.Error, m.Node = Error{}, node
	}
	b.label(&m.Node)
	b.label(&m.DisplayNode)
	if m.Kind != Executed {
		m.Outputs = nil
	}
	if m.Kind != ExecutionCached {
		m.Nodes = nil
	}
	if m.Kind != ProgressState {
		m.States = nil
	}
	if m.Kind != Status {
		m.HasRemaining, m.SID = false, ""
	}
}

// readData reads the fields of all kinds, since the type may follow them.
func (b Bounds) readData(d document, m *Message) error {
	*m = Message{Kind: m.Kind}
	return d.object(func(name string) (err error) {
		switch name {
		case "prompt_id":
			err = d.text(&m.PromptID)
		case "sid":
			err = d.text(&m.SID)
		case "timestamp":
			err = d.milliseconds(&m.At)
		case "node":
			m.NoNode, err = d.id(&m.Node)
		case "display_node":
			err = d.text(&m.DisplayNode)
		case "value":
			err = d.number(&m.Value)
		case "max":
			err = d.number(&m.Max)
		case "nodes":
			if d.PeekKind() == '[' {
				m.Nodes, err = b.readIDs(d)
			} else {
				m.States, err = b.readStates(d)
			}
		case "output":
			m.Outputs, err = b.readOutputs(d)
		case "node_id":
			_, err = d.id(&m.Error.NodeID)
		case "node_type":
			err = d.text(&m.Error.NodeType)
		case "exception_type":
			err = d.text(&m.Error.Type)
		case "exception_message":
			err = d.text(&m.Error.Message)
		case "traceback":
			m.Error.Traceback, err = b.readTexts(d)
		case "status":
			err = m.readStatus(d)
		default:
			err = d.SkipValue()
		}
		return err
	})
}

func (m *Message) readStatus(d document) error {
	return d.object(func(name string) error {
		if name != "exec_info" {
			return d.SkipValue()
		}
		return d.object(func(name string) error {
			if name != "queue_remaining" || d.PeekKind() != '0' {
				return d.SkipValue()
			}
			var n float64
			err := d.number(&n)
			if n >= 0 && n < 1<<31 {
				m.Remaining, m.HasRemaining = int(n), true
			}
			return err
		})
	})
}

func (b Bounds) readStates(d document) (map[string]NodeState, error) {
	states := map[string]NodeState{}
	err := d.object(func(id string) error {
		var s NodeState
		err := d.object(func(name string) (err error) {
			switch name {
			case "value":
				err = d.number(&s.Value)
			case "max":
				err = d.number(&s.Max)
			case "state":
				err = d.text(&s.State)
			case "display_node_id":
				_, err = d.id(&s.Display)
			case "parent_node_id":
				_, err = d.id(&s.Parent)
			default:
				err = d.SkipValue()
			}
			return err
		})
		b.label(&id)
		b.label(&s.Display)
		b.label(&s.Parent)
		if len(states) < b.Nodes {
			states[id] = s
		}
		return err
	})
	return states, err
}

// readIDs reads the ids of nodes.
func (b Bounds) readIDs(d document) (ids []string, err error) {
	ids = []string{}
	err = d.array(func(int) error {
		var id string
		_, err := d.id(&id)
		if id != "" && len(ids) < b.Nodes {
			b.label(&id)
			ids = append(ids, id)
		}
		return err
	})
	return ids, err
}

// readTexts reads the lines of a stack trace. The last ones are kept, as far as they are
// needed.
func (b Bounds) readTexts(d document) (lines []string, err error) {
	size := 0
	err = d.array(func(int) error {
		var line string
		err := d.text(&line)
		lines = append(lines, line)
		for size += len(line); size-len(lines[0]) > 2*b.Stacktrace; lines = lines[1:] {
			size -= len(lines[0])
		}
		return err
	})
	return lines, err
}

// maxOutputs bounds the kinds of outputs of a node.
const maxOutputs = 32

// readOutputs counts a node's outputs by kind ("images", "text", …).
func (b Bounds) readOutputs(d document) (counts map[string]int, err error) {
	counts = map[string]int{}
	err = d.object(func(kind string) error {
		n := 1
		var err error
		if d.PeekKind() == '[' {
			n = 0
			err = d.array(func(int) error { n++; return d.SkipValue() })
		} else {
			err = d.SkipValue()
		}
		b.label(&kind)
		if _, known := counts[kind]; known || len(counts) < maxOutputs {
			counts[kind] = n
		}
		return err
	})
	return counts, err
}
