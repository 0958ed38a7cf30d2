// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"encoding/json"
	"time"
)

// Kind is a message's type on the WebSocket.
type Kind string

// The messages that describe a prompt's life, and status. Others (feature_flags, logs,
// previews) are ignored.
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

// Message is one text frame of the server.
type Message struct {
	Kind     Kind
	PromptID string
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
	Value float64 `json:"value"`
	Max   float64 `json:"max"`
	// pending, running, finished, error
	State   string `json:"state"`
	Display string `json:"display_node_id"`
	Parent  string `json:"parent_node_id"`
}

// Error is a failure as the server describes it.
type Error struct {
	NodeID, NodeType string   `json:"-"`
	Type             string   `json:"type"`
	Message          string   `json:"message"`
	Traceback        []string `json:"-"`
}

// wire is a message's JSON. Every field is optional.
type wire struct {
	Type Kind `json:"type"`
	Data struct {
		PromptID  string                     `json:"prompt_id"`
		Timestamp float64                    `json:"timestamp"`
		Node      json.RawMessage            `json:"node"`
		Display   string                     `json:"display_node"`
		Value     float64                    `json:"value"`
		Max       float64                    `json:"max"`
		Nodes     json.RawMessage            `json:"nodes"`
		Output    map[string]json.RawMessage `json:"output"`
		NodeID    json.RawMessage            `json:"node_id"`
		NodeType  string                     `json:"node_type"`
		Exception string                     `json:"exception_type"`
		Message   string                     `json:"exception_message"`
		Traceback []string                   `json:"traceback"`
		Status    struct {
			Exec struct {
				Remaining *int `json:"queue_remaining"`
			} `json:"exec_info"`
		} `json:"status"`
	} `json:"data"`
}

// ParseMessage reads one text frame. It reports false for text that is not a ComfyUI
// message, and for kinds that do not describe a prompt's life.
func ParseMessage(text []byte) (Message, bool) {
	var w wire
	if err := json.Unmarshal(text, &w); err != nil && w.Type == "" {
		return Message{}, false
	}
	d := &w.Data
	m := Message{Kind: w.Type, PromptID: d.PromptID, DisplayNode: d.Display, Value: d.Value, Max: d.Max}
	if d.Timestamp > 0 && d.Timestamp < 1<<53 {
		m.At = time.UnixMilli(int64(d.Timestamp))
	}
	m.Node, m.NoNode = nodeID(d.Node)
	switch w.Type {
	case Status:
		if r := d.Status.Exec.Remaining; r != nil && *r >= 0 {
			m.Remaining, m.HasRemaining = *r, true
		}
	case ExecutionCached:
		m.Nodes = nodeIDs(d.Nodes)
	case ProgressState:
		_ = json.Unmarshal(d.Nodes, &m.States)
	case Executed:
		m.Outputs = outputs(d.Output)
	case ExecutionError, ExecutionInterrupted:
		m.Node, _ = nodeID(d.NodeID)
		m.Error = Error{NodeID: m.Node, NodeType: d.NodeType, Type: d.Exception, Message: d.Message, Traceback: d.Traceback}
	case ExecutionStart, Executing, Progress, ExecutionSuccess:
	default:
		return Message{}, false
	}
	return m, true
}

// nodeID reads a node's id, which is text or, in old servers, a number; null means that
// there is no node.
func nodeID(raw json.RawMessage) (id string, isNull bool) {
	if string(raw) == "null" {
		return "", true
	}
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text, false
	}
	var number json.Number
	if json.Unmarshal(raw, &number) == nil {
		return number.String(), false
	}
	return "", false
}

func nodeIDs(raw json.RawMessage) []string {
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) != nil {
		return nil
	}
	ids := make([]string, 0, len(list))
	for _, r := range list {
		if id, _ := nodeID(r); id != "" {
			ids = append(ids, id)
		}
	}
	return ids
}

// outputs counts a node's outputs by kind ("images", "text", …).
func outputs(raw map[string]json.RawMessage) map[string]int {
	counts := make(map[string]int, len(raw))
	for kind, r := range raw {
		var list []json.RawMessage
		if json.Unmarshal(r, &list) == nil {
			counts[kind] = len(list)
		} else {
			counts[kind] = 1
		}
	}
	return counts
}
