// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"errors"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// document reads one JSON document token by token, so that what is not needed is not
// held. Where a value is not of the expected type, it is skipped and reported as empty.
// Keys are matched as Python does: their case counts, and the last of several counts.
type document struct{ *jsontext.Decoder }

func newDocument(from io.Reader) document {
	return document{jsontext.NewDecoder(from, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))}
}

// object calls field with the name of each field of an object. field must read the value.
func (d document) object(field func(name string) error) error {
	if d.PeekKind() != '{' {
		return d.SkipValue()
	}
	if _, err := d.ReadToken(); err != nil {
		return err
	}
	for d.PeekKind() != '}' {
		name, err := d.ReadToken()
		if err != nil {
			return err
		}
		if err := field(name.String()); err != nil {
			return err
		}
	}
	_, err := d.ReadToken()
	return err
}

// array calls item with the index of each item of an array. item must read the value.
func (d document) array(item func(i int) error) error {
	if d.PeekKind() != '[' {
		return d.SkipValue()
	}
	if _, err := d.ReadToken(); err != nil {
		return err
	}
	for i := 0; d.PeekKind() != ']'; i++ {
		if err := item(i); err != nil {
			return err
		}
	}
	_, err := d.ReadToken()
	return err
}

// text reads a text.
func (d document) text(into *string) error {
	if d.PeekKind() != '"' {
		*into = ""
		return d.SkipValue()
	}
	t, err := d.ReadToken()
	*into = t.String()
	return err
}

// number reads a number.
func (d document) number(into *float64) error {
	if d.PeekKind() != '0' {
		*into = 0
		return d.SkipValue()
	}
	t, err := d.ReadToken()
	if err != nil {
		return err
	}
	*into, _ = strconv.ParseFloat(t.String(), 64) // infinite beyond its range
	return nil
}

// float reads a value as Python's float does: texts and truth values, too.
func (d document) float(into *float64) error {
	switch d.PeekKind() {
	case '"':
		var text string
		err := d.text(&text)
		*into, _ = strconv.ParseFloat(strings.TrimSpace(text), 64)
		if math.IsNaN(*into) {
			*into = 0
		}
		return err
	case 't':
		*into = 1
		return d.SkipValue()
	}
	return d.number(into)
}

// truth reads a value as Python's if does.
func (d document) truth() (bool, error) {
	switch d.PeekKind() {
	case 'f', 'n':
		return false, d.SkipValue()
	case '0':
		var n float64
		err := d.number(&n)
		return n != 0, err
	case '"':
		var text string
		err := d.text(&text)
		return text != "", err
	}
	v, err := d.ReadValue()
	return err == nil && string(v) != "{}" && string(v) != "[]", err
}

// milliseconds reads a time since the Unix epoch.
func (d document) milliseconds(into *time.Time) error {
	var ms float64
	err := d.number(&ms)
	*into = time.Time{}
	if ms > 0 && ms < 1<<53 {
		*into = time.UnixMilli(int64(ms))
	}
	return err
}

// id reads a node's id, which is text or, in old servers, a number; null means that there
// is no node.
func (d document) id(into *string) (isNull bool, err error) {
	*into = ""
	switch d.PeekKind() {
	case '"', '0':
		t, err := d.ReadToken()
		*into = t.String()
		return false, err
	case 'n':
		return true, d.SkipValue()
	}
	return false, d.SkipValue()
}

var errTrailing = errors.New("there is something after the document")

// end reports an error unless the document has been read to its end.
func (d document) end() error {
	switch _, err := d.ReadToken(); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return err
	}
	return errTrailing
}
