// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/comfyreplay"
)

// fields are those of an object as Python's json reads them: the last of those with one name
// counts, and trailing white space does not. ok is false for what it refuses.
func fields(body []byte) (all map[string]string, ok bool) {
	d := jsontext.NewDecoder(bytes.NewReader(body), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	if d.PeekKind() != '{' {
		return nil, false
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, false
	}
	all = map[string]string{}
	for d.PeekKind() != '}' {
		name, err := d.ReadToken()
		if err != nil {
			return nil, false
		}
		key := name.String()
		value, err := d.ReadValue()
		if err != nil {
			return nil, false
		}
		all[key] = string(value)
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, false
	}
	_, err := d.ReadToken()
	return all, errors.Is(err, io.EOF)
}

const place = 1795000123.25

func TestBodiesOfRecordingsDifferInTheirNumberAlone(t *testing.T) {
	bodies := 0
	for _, r := range comfyreplay.All(t) {
		for i := range r.Lines {
			l := &r.Lines[i]
			if l.Kind != "request" || l.Method != http.MethodPost || strings.TrimPrefix(l.Path, "/api") != "/prompt" {
				continue
			}
			body := l.Content()
			before, ok := fields(body)
			if !ok {
				_, edited := WithNumber(body, place)
				assert.False(t, edited && isObject(body), "%s, line %d", r.Name, i+1)
				continue
			}
			bodies++
			check(t, body, before)
		}
	}
	assert.Greater(t, bodies, 30)
}

func isObject(body []byte) bool { _, ok := fields(body); return ok }

// check compares a body's fields with those before.
func check(t *testing.T, body []byte, before map[string]string) {
	t.Helper()
	edited, ok := WithNumber(body, place)
	require.True(t, ok, "%s", body)
	after, ok := fields(edited)
	require.True(t, ok, "%s", edited)
	assert.JSONEq(t, "1795000123.25", after["number"])
	delete(after, "number")
	given := before["number"]
	delete(before, "number")
	assert.Equal(t, before, after)
	before["number"] = given
}

func TestNumberIsPutIntoTheTextOfABody(t *testing.T) {
	for body, want := range map[string]string{
		`{}`:                          `{"number":1795000123.250000}`,
		" { } \n":                     " { \"number\":1795000123.250000} \n",
		`{"prompt": {}}`:              `{"prompt": {},"number":1795000123.250000}`,
		"{\"front\": true\r\n}\t\r\n": "{\"front\": true\r\n,\"number\":1795000123.250000}\t\r\n",
		`{"number": -5, "n\u0075mber": 7, "number": NaN}`: `{"number": -5, "n\u0075mber": 7, "number": NaN,"number":1795000123.250000}`,
	} {
		edited, ok := WithNumber([]byte(body), place)
		assert.True(t, ok, body)
		assert.Equal(t, want, string(edited))
	}
	for _, body := range []string{``, ` `, `}`, ` }`, `{`, `[]`, `"}"`, `17`, `null`, `{"a": 1`, "{\x00}\x00"} {
		edited, ok := WithNumber([]byte(body), place)
		assert.False(t, ok, body)
		assert.Equal(t, body, string(edited))
	}
	large, ok := WithNumber([]byte(`{}`), 1e10+1795000123.25)
	assert.True(t, ok)
	var read struct{ Number float64 }
	require.NoError(t, json.Unmarshal(large, &read))
	assert.InDelta(t, 1e10+1795000123.25, read.Number, 1e-5)
}

// FuzzNumber: a body that the server reads has the number and is else the same; one that it
// refuses, it refuses with the number, too.
func FuzzNumber(f *testing.F) {
	for _, seed := range []string{
		`{}`, ` {"a":1} `, `{"number":1,"number":2}`, `{"a":"}`, `{"a":{}`, `{"a":1 "}`, `{"a":"\}`, `{"a":1}{"b":2}`, `{"a":1,}`, `{,}`, `{"a"}`, `{"a":}`,
		`[{}`, `"{}`, `{"a":"b{}`, `{"number":-5,"z":"}`, "{\"a\":\"\xff}", `{"":{"":[1,{}]}}`, `/*{*/}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		before, isObject := fields(body)
		if isObject {
			check(t, body, before)
			return
		}
		if edited, ok := WithNumber(body, place); ok {
			_, isObject = fields(edited)
			assert.False(t, isObject, "%q becomes %q", body, edited)
		}
	})
}
