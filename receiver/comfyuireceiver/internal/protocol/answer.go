// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"bytes"
	"slices"
)

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
func (b Bounds) ParseAnswer(body []byte) Answer {
	var a Answer
	d := newDocument(&lenientReader{from: bytes.NewReader(body)})
	err := d.object(func(name string) (err error) {
		switch name {
		case "prompt_id":
			err = d.text(&a.PromptID)
		case "number":
			err = d.number(&a.Number)
		case "node_errors": // a list if there are none
			a.Refused = nil
			err = d.object(func(id string) error {
				b.label(&id)
				if len(a.Refused) < b.Nodes {
					a.Refused = append(a.Refused, id)
				}
				return d.SkipValue()
			})
		case "error":
			err = readRejection(d, &a.Error)
		default:
			err = d.SkipValue()
		}
		return err
	})
	if err != nil {
		return Answer{}
	}
	slices.SortFunc(a.Refused, compareIDs)
	b.bound(&a.Error)
	return a
}

// readRejection reads why a prompt was rejected: an object, or text of older servers.
func readRejection(d document, e *Error) error {
	*e = Error{}
	if d.PeekKind() == '"' {
		return d.text(&e.Message)
	}
	return d.object(func(name string) error {
		switch name {
		case "type":
			return d.text(&e.Type)
		case "message":
			return d.text(&e.Message)
		}
		return d.SkipValue()
	})
}
