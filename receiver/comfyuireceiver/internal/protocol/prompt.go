// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Node is one node of a workflow in the API's form.
type Node struct {
	ID, Class, Title string
	// Inputs are values (numbers, text, booleans) and links, which are lists.
	Inputs map[string]any
}

// Submission is the body of POST /prompt.
type Submission struct {
	// PromptID is set where the caller chose it.
	PromptID, ClientID string
	// Traceparent is extra_data.traceparent (W3C Trace Context).
	Traceparent string
	// TaskClass is extra_data.task_class, which the caller chose.
	TaskClass string
	// Workflow is the workflow's id if the web page sent one, else a hash of the classes
	// and links of its nodes.
	Workflow string
	Nodes    []Node
}

// NodesByID are the nodes by their ids.
func (s *Submission) NodesByID() map[string]Node {
	all := make(map[string]Node, len(s.Nodes))
	for _, n := range s.Nodes {
		all[n.ID] = n
	}
	return all
}

type wireNode struct {
	Class  string         `json:"class_type"`
	Inputs map[string]any `json:"inputs"`
	Meta   struct {
		Title string `json:"title"`
	} `json:"_meta"`
}

type wireExtra struct {
	Traceparent string `json:"traceparent"`
	TaskClass   string `json:"task_class"`
	ClientID    string `json:"client_id"`
	PNGInfo     struct {
		Workflow struct {
			ID string `json:"id"`
		} `json:"workflow"`
	} `json:"extra_pnginfo"`
}

// ParseSubmission reads the body of POST /prompt. It returns an error if the body is not
// JSON, which the server refuses too.
func ParseSubmission(body []byte) (Submission, error) {
	var w struct {
		Prompt   json.RawMessage `json:"prompt"`
		ClientID string          `json:"client_id"`
		PromptID string          `json:"prompt_id"`
		Extra    json.RawMessage `json:"extra_data"`
	}
	if err := json.Unmarshal(body, &w); err != nil {
		return Submission{}, fmt.Errorf("read the prompt: %w", err)
	}
	s := Submission{PromptID: w.PromptID, ClientID: w.ClientID}
	s.readExtra(w.Extra)
	s.readNodes(w.Prompt)
	return s, nil
}

func (s *Submission) readExtra(raw json.RawMessage) {
	var extra wireExtra
	if len(raw) == 0 {
		return
	}
	_ = json.Unmarshal(raw, &extra) // unexpected values stay empty
	s.Traceparent, s.TaskClass, s.Workflow = extra.Traceparent, extra.TaskClass, extra.PNGInfo.Workflow.ID
	if s.ClientID == "" {
		s.ClientID = extra.ClientID
	}
}

func (s *Submission) readNodes(raw json.RawMessage) {
	var nodes map[string]json.RawMessage
	if json.Unmarshal(raw, &nodes) != nil {
		return
	}
	for id, r := range nodes {
		var n wireNode
		d := json.NewDecoder(bytes.NewReader(r))
		d.UseNumber()
		_ = d.Decode(&n)
		s.Nodes = append(s.Nodes, Node{ID: id, Class: n.Class, Title: n.Meta.Title, Inputs: n.Inputs})
	}
	slices.SortFunc(s.Nodes, func(a, b Node) int { return compareIDs(a.ID, b.ID) })
	if s.Workflow == "" && len(s.Nodes) > 0 {
		s.Workflow = shape(s.Nodes)
	}
}

// compareIDs orders numeric ids as numbers, so that 10 comes after 9.
func compareIDs(a, b string) int {
	if len(a) != len(b) && isNumber(a) && isNumber(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

func isNumber(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// shape is a hash of the classes and links of a workflow's nodes. Other inputs, which
// change from one prompt to the next, are left out.
func shape(nodes []Node) string {
	h := sha256.New()
	for _, n := range nodes {
		h.Write([]byte(n.ID + "\x00" + n.Class + "\x00"))
		names := make([]string, 0, len(n.Inputs))
		for name, v := range n.Inputs {
			if link, ok := v.([]any); ok && len(link) == 2 {
				names = append(names, fmt.Sprint(name, "\x01", link[0], "\x01", link[1]))
			}
		}
		slices.Sort(names)
		for _, name := range names {
			h.Write([]byte(name + "\x00"))
		}
	}
	return hex.EncodeToString(h.Sum(nil))[:12]
}

// Answer is the server's answer to POST /prompt.
type Answer struct {
	PromptID string
	Number   float64
	// Refused are the nodes that failed validation: all of a rejected prompt's, or some of
	// an accepted one's.
	Refused []string
	// Error is the reason for which a prompt was rejected.
	Error Error
}

// ParseAnswer reads the body of the answer to POST /prompt. The answer is empty if the
// body is not JSON.
func ParseAnswer(body []byte) Answer {
	var w struct {
		PromptID string                     `json:"prompt_id"`
		Number   float64                    `json:"number"`
		Nodes    map[string]json.RawMessage `json:"node_errors"` // a list if there are none
		Error    json.RawMessage            `json:"error"`
	}
	_ = json.Unmarshal(body, &w) // unexpected values stay empty
	a := Answer{PromptID: w.PromptID, Number: w.Number, Refused: slices.SortedFunc(maps.Keys(w.Nodes), compareIDs)}
	if json.Unmarshal(w.Error, &a.Error) != nil {
		_ = json.Unmarshal(w.Error, &a.Error.Message) // older servers: text
	}
	return a
}
