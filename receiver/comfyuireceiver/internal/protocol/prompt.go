// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/boundtext"
)

// Node is one node of a workflow in the API's form.
type Node struct {
	ID, Class, Title string
	// Inputs are the texts and numbers among its inputs.
	Inputs map[string]Input
	// Links are those of its inputs that are neither.
	Links []Link
}

// Link is an input that is an output of another node, or a list or an object.
type Link struct {
	Input string
	// Node is the id of the other node; empty for another list, and for an object.
	Node string
}

// Input is a text or a number.
type Input struct {
	Value  string
	IsText bool
}

// Submission is the body of POST /prompt, or an entry of the queue or the history.
type Submission struct {
	// PromptID is set where the caller chose it.
	PromptID, ClientID string
	// Traceparent is extra_data.traceparent (W3C Trace Context).
	Traceparent string
	// TaskClass is extra_data.task_class, which the caller chose.
	TaskClass string
	// Deadline is extra_data.deadline_s: for how long the image is of use, in seconds; 0 if the
	// caller did not say.
	Deadline float64
	// Number is the place in the queue that the caller asked for, nil if it asked for none: below
	// 0 is in front of all, as front is.
	Number *float64
	// Workflow is the workflow's id if the web page sent one, else a hash of the classes
	// and links of its nodes.
	Workflow string
	Nodes    []Node
	// IsCut is true if some nodes or inputs are left out, since there are too many.
	IsCut bool
	// Content is a hash of all nodes and inputs. It is the same for a request and for the
	// server's copy of it, which has other forms of numbers.
	Content uint64
	// NodeIDs is a hash of the ids of all nodes, which the server does not change.
	NodeIDs uint64
	// Created is when the server accepted the prompt, by its clock (extra_data.create_time,
	// servers since 2025); zero if it is unknown.
	Created time.Time
}

// NodesByID are the nodes by their ids.
func (s *Submission) NodesByID() map[string]Node {
	all := make(map[string]Node, len(s.Nodes))
	for _, n := range s.Nodes {
		all[n.ID] = n
	}
	return all
}

// HasLongID reports whether an id is too long to be matched.
func (s *Submission) HasLongID() bool { return max(len(s.PromptID), len(s.ClientID)) > MaxID }

// Size is about how much memory the submission takes, in bytes.
func (s *Submission) Size() int {
	size := 256 + len(s.PromptID) + len(s.ClientID) + len(s.Traceparent) + len(s.TaskClass) + len(s.Workflow)
	for i := range s.Nodes {
		n := &s.Nodes[i]
		size += 128 + len(n.ID) + len(n.Class) + len(n.Title)
		for name, value := range n.Inputs {
			size += 64 + len(name) + len(value.Value)
		}
		for _, l := range n.Links {
			size += 32 + len(l.Input) + len(l.Node)
		}
	}
	return size
}

// ParseSubmission reads the body of POST /prompt. It returns an error if the body is not
// JSON, which the server refuses too.
func (b Bounds) ParseSubmission(body io.Reader) (Submission, error) {
	d, s := newDocument(&lenientReader{from: body}), Submission{}
	var inExtra string
	inFront := false
	err := d.object(func(name string) (err error) {
		switch name {
		case "prompt":
			err = b.readNodes(d, &s)
		case "client_id":
			err = d.text(&s.ClientID)
		case "prompt_id":
			err = d.text(&s.PromptID)
		case "extra_data":
			inExtra, err = b.readExtra(d, &s)
		case "number":
			var n float64
			err = d.float(&n)
			s.Number = &n
		case "front":
			inFront, err = d.truth()
		default:
			err = d.SkipValue()
		}
		return err
	})
	if err == nil {
		err = d.end()
	}
	if err != nil {
		return Submission{}, fmt.Errorf("read the prompt: %w", err)
	}
	if s.ClientID == "" {
		s.ClientID = inExtra
	}
	if s.Number == nil && inFront { // the server looks for it only then
		first := math.Inf(-1)
		s.Number = &first
	}
	b.finish(&s)
	return s, nil
}

// finish sorts the nodes and names the workflow.
func (b Bounds) finish(s *Submission) {
	slices.SortFunc(s.Nodes, func(a, b Node) int { return compareIDs(a.ID, b.ID) })
	b.label(&s.TaskClass)
	b.label(&s.Workflow)
}

// readExtra reads extra_data; clientID is the client's id in it.
func (b Bounds) readExtra(d document, s *Submission) (clientID string, err error) {
	err = d.object(func(name string) (err error) {
		switch name {
		case "traceparent":
			err = d.text(&s.Traceparent)
		case "task_class":
			err = d.text(&s.TaskClass)
		case "deadline_s":
			err = d.float(&s.Deadline)
		case "client_id":
			err = d.text(&clientID)
		case "create_time":
			err = d.milliseconds(&s.Created)
		case "extra_pnginfo":
			err = b.readPNGInfo(d, s)
		default:
			err = d.SkipValue()
		}
		return err
	})
	if len(s.Traceparent) > b.Label {
		s.Traceparent = "" // not valid, and not to be held
	}
	return clientID, err
}

// readPNGInfo reads the id of the workflow as the web page knows it.
func (b Bounds) readPNGInfo(d document, s *Submission) error {
	return d.object(func(name string) error {
		if name != "workflow" {
			return d.SkipValue()
		}
		return d.object(func(name string) error {
			if name != "id" {
				return d.SkipValue()
			}
			var id string
			err := d.text(&id)
			if id != "" {
				s.Workflow = id
			}
			return err
		})
	})
}

// maxHeld bounds what is held of one submission's inputs, in bytes, and maxInputs the
// inputs of one node. The inputs that sizes are read from come among the first.
const (
	maxHeld   = 1 << 20
	maxInputs = 256
)

// submissionReader reads the nodes of one submission.
type submissionReader struct {
	document
	Bounds
	held    int
	content uint64
	nodeIDs uint64
	shape   []string
	// isCut is true once something is left out.
	isCut bool
}

func (b Bounds) readNodes(d document, s *Submission) error {
	r := &submissionReader{document: d, Bounds: b}
	s.Nodes = nil
	err := d.object(func(id string) error {
		b.label(&id)
		n, err := r.node(id)
		if len(s.Nodes) < b.Nodes {
			s.Nodes = append(s.Nodes, n)
		} else {
			r.isCut = true
		}
		return err
	})
	s.Content, s.NodeIDs, s.IsCut = r.content, r.nodeIDs, r.isCut
	if s.Workflow == "" && len(s.Nodes) > 0 {
		s.Workflow = r.workflow()
	}
	return err
}

func (r *submissionReader) node(id string) (Node, error) {
	n := Node{ID: id}
	var links []string
	err := r.object(func(name string) (err error) {
		switch name {
		case "class_type":
			err = r.text(&n.Class)
			r.label(&n.Class)
		case "_meta":
			err = r.object(func(name string) error {
				if name != "title" {
					return r.SkipValue()
				}
				err := r.text(&n.Title)
				r.label(&n.Title)
				return err
			})
		case "inputs":
			n.Inputs, n.Links = nil, nil
			links, err = r.inputs(&n)
		default:
			err = r.SkipValue()
		}
		return err
	})
	r.content += hashed(id, n.Class)
	r.nodeIDs += hashed(id, "")
	if len(r.shape) < r.Nodes {
		slices.Sort(links)
		r.shape = append(r.shape, id+"\x00"+n.Class+"\x00"+strings.Join(links, ""))
	}
	return n, err
}

// inputs reads a node's inputs. It returns its links, which are lists of another node's id
// and the number of its output.
func (r *submissionReader) inputs(n *Node) (links []string, err error) {
	err = r.object(func(name string) error {
		c := canonical{sum: hashed(n.ID, name)}
		var value string
		var err error
		isLink, kind := false, r.PeekKind()
		switch kind {
		case '"', '0':
			if _, err = r.id(&value); err == nil {
				c.scalar(value)
			}
		case '[':
			isLink, err = c.list(r.document)
		default:
			err = c.value(r.document)
		}
		r.content += c.sum
		limit := r.Label
		if name == "text" {
			limit = MaxPromptText
		}
		r.label(&name)
		if isLink && len(links) < maxInputs {
			links = append(links, name+"\x01"+c.link[0]+"\x01"+c.link[1]+"\x00")
		}
		delete(n.Inputs, name) // the server uses the last of the same name
		isOther := kind == '[' || kind == '{'
		if value == "" && !isOther {
			return err
		}
		if r.held > maxHeld || len(n.Inputs)+len(n.Links) >= maxInputs {
			r.isCut = true
			return err
		}
		if isOther {
			l := Link{Input: name}
			if isLink {
				l.Node = c.link[0]
				r.label(&l.Node)
			}
			n.Links = append(n.Links, l)
			r.held += 32 + len(l.Input) + len(l.Node)
			return err
		}
		value = boundtext.Text(value, limit)
		if n.Inputs == nil {
			n.Inputs = map[string]Input{}
		}
		n.Inputs[name] = Input{value, kind == '"'}
		r.held += 64 + len(name) + len(value)
		return err
	})
	return links, err
}

// MaxPromptText bounds the text of one input that may be captured, in bytes. It is cut again
// when private data have been removed.
const MaxPromptText = 4096

// workflow is a hash of the classes and links of a workflow's nodes. Other inputs, which
// change from one prompt to the next, are left out.
func (r *submissionReader) workflow() string {
	slices.SortFunc(r.shape, func(a, b string) int {
		idA, _, _ := strings.Cut(a, "\x00")
		idB, _, _ := strings.Cut(b, "\x00")
		return compareIDs(idA, idB)
	})
	h := sha256.New()
	for _, node := range r.shape {
		h.Write([]byte(node))
	}
	return hex.EncodeToString(h.Sum(nil))[:12]
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
