// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"bytes"
	"cmp"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// Edit is a new value for an input of a node.
type Edit struct {
	Node, Input string
	// Value is positive; 0 has the input stay as it is, which must not be a link.
	Value int
}

// place is where a value is in a text, in bytes.
type place struct {
	from, to int
	kind     jsontext.Kind
}

// inputPlaces finds inputs of nodes in the body of POST /prompt. Of several keys of one name Python
// uses the last.
type inputPlaces struct {
	document
	// wanted are the inputs that are looked for, by their nodes; found is where they are.
	wanted map[string][]Edit
	found  map[Edit]place
}

// WithInputs is the body of POST /prompt with other values for inputs. The body's text is edited, and
// nothing else in it changes. ok is false if an input is not a number, or the text of a number; such a
// body is returned as it is.
func WithInputs(body []byte, edits []Edit) (edited []byte, ok bool) {
	p := &inputPlaces{document: newDocument(bytes.NewReader(body)), wanted: map[string][]Edit{}}
	for _, e := range edits {
		p.wanted[e.Node] = append(p.wanted[e.Node], e)
	}
	err := p.object(func(name string) error {
		if name != "prompt" {
			return p.SkipValue()
		}
		p.found = map[Edit]place{}
		return p.object(p.node)
	})
	if err != nil || p.end() != nil {
		return body, false
	}
	places := make([]place, 0, len(edits))
	values := map[place]string{}
	for _, e := range edits {
		at, isThere := p.found[e]
		value := strconv.Itoa(e.Value)
		switch {
		case e.Value == 0 && (!isThere || at.kind == '"' || at.kind == '0'):
			continue
		case e.Value <= 0 || !isThere:
			return body, false
		case at.kind == '"':
			value = strconv.Quote(value)
		case at.kind != '0':
			return body, false
		}
		places = append(places, at)
		values[at] = value
	}
	slices.SortFunc(places, func(a, b place) int { return cmp.Compare(a.from, b.from) })
	edited = make([]byte, 0, len(body)+8*len(places))
	copied := 0
	for _, at := range slices.Compact(places) {
		edited = append(append(edited, body[copied:at.from]...), values[at]...)
		copied = at.to
	}
	return append(edited, body[copied:]...), true
}

// node reads a node; what was found before under its id no longer counts.
func (p *inputPlaces) node(id string) error {
	wanted := p.wanted[id]
	if len(wanted) == 0 {
		return p.SkipValue()
	}
	p.forget(wanted, "")
	return p.object(func(name string) error {
		if name != "inputs" {
			return p.SkipValue()
		}
		p.forget(wanted, "")
		return p.object(func(name string) error {
			p.forget(wanted, name)
			kind := p.PeekKind()
			if !slices.ContainsFunc(wanted, func(e Edit) bool { return e.Input == name }) {
				return p.SkipValue()
			}
			value, err := p.ReadValue()
			if err != nil {
				return err
			}
			to := int(p.InputOffset())
			for _, e := range wanted {
				if e.Input == name {
					p.found[e] = place{to - len(value), to, kind}
				}
			}
			return nil
		})
	})
}

// forget forgets a node's inputs of a name; all of them if it is empty.
func (p *inputPlaces) forget(of []Edit, name string) {
	for _, e := range of {
		if name == "" || e.Input == name {
			delete(p.found, e)
		}
	}
}
