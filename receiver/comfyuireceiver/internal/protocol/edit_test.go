// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"bytes"
	"encoding/json"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestInputsAreEditedInTheText(t *testing.T) {
	edits := []Edit{{"2", "width", 680}, {"2", "height", 504}, {"3", "size", 680}, {"4", "size", 0}}
	for name, of := range map[string]struct{ body, want string }{
		"numbers":                {`{"prompt": {"2": {"inputs": {"width":1024 , "height": 768.0}}, "3": {"inputs": {"size": 1e3}}}}`, `{"prompt": {"2": {"inputs": {"width":680 , "height": 504}}, "3": {"inputs": {"size": 680}}}}`},
		"texts":                  {`{"prompt":{"2":{"inputs":{"width":"1024","height":" 768 "}},"3":{"inputs":{"size":"1024"}}}}`, `{"prompt":{"2":{"inputs":{"width":"680","height":"504"}},"3":{"inputs":{"size":"680"}}}}`},
		"another order":          {`{"x": "é\u00e9", "prompt": {"3": {"inputs": {"size": 1}}, "2": {"inputs": {"height": 2, "other": [1, {"width": 5}], "width": 3}}}, "number": -1}`, `{"x": "é\u00e9", "prompt": {"3": {"inputs": {"size": 680}}, "2": {"inputs": {"height": 504, "other": [1, {"width": 5}], "width": 680}}}, "number": -1}`},
		"the last key counts":    {`{"prompt": {"2": 1}, "prompt": {"3": {"inputs": {"size": [1]}}, "2": {"inputs": {"width": 1, "height": 2, "width": 3}, "x": 1}, "3": {"inputs": {"size": 5}, "inputs": {"size": 6}}}}`, `{"prompt": {"2": 1}, "prompt": {"3": {"inputs": {"size": [1]}}, "2": {"inputs": {"width": 1, "height": 504, "width": 680}, "x": 1}, "3": {"inputs": {"size": 5}, "inputs": {"size": 680}}}}`},
		"escaped names":          {`{"pr\u006fmpt": {"\u0032": {"inputs": {"w\u0069dth": 1, "height": 2}}, "3": {"inputs": {"size": 5}}}}`, `{"pr\u006fmpt": {"\u0032": {"inputs": {"w\u0069dth": 680, "height": 504}}, "3": {"inputs": {"size": 680}}}}`},
		"a number that stays":    {`{"prompt": {"4": {"inputs": {"size": 5}}, "2": {"inputs": {"width": 1, "height": 2}}, "3": {"inputs": {"size": 5}}}}`, `{"prompt": {"4": {"inputs": {"size": 5}}, "2": {"inputs": {"width": 680, "height": 504}}, "3": {"inputs": {"size": 680}}}}`},
		"a link that must stay":  {`{"prompt": {"4": {"inputs": {"size": ["9", 0]}}, "2": {"inputs": {"width": 1, "height": 2}}, "3": {"inputs": {"size": 5}}}}`, ""},
		"a link":                 {`{"prompt": {"2": {"inputs": {"width": ["9", 0], "height": 2}}, "3": {"inputs": {"size": 5}}}}`, ""},
		"an input is missing":    {`{"prompt": {"2": {"inputs": {"width": 1}}, "3": {"inputs": {"size": 5}}}}`, ""},
		"the last has no inputs": {`{"prompt": {"2": {"inputs": {"width": 1, "height": 2}}, "3": {"inputs": {"size": 5}}, "2": {}}}`, ""},
		"inputs of another kind": {`{"prompt": {"2": {"inputs": [1]}, "3": {"inputs": {"size": 5}}}}`, ""},
		"the last prompt":        {`{"prompt": {"2": {"inputs": {"width": 1, "height": 2}}, "3": {"inputs": {"size": 5}}}, "prompt": 1}`, ""},
		"not JSON":               {`{"prompt": {"2": {"inputs": {"width": 1, "height": 2}}, "3": {"inputs": {"size": 5}}}`, ""},
		"something after it":     {`{"prompt": {"2": {"inputs": {"width": 1, "height": 2}}, "3": {"inputs": {"size": 5}}}} {}`, ""},
		"a list":                 {`[1]`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := WithInputs([]byte(of.body), edits)
			assert.Equal(t, of.want != "", ok)
			if !ok {
				of.want = of.body
			}
			assert.Equal(t, of.want, string(got))
		})
	}
}

// edited decodes a body, with the edits made in what is decoded.
func edited(body []byte, edits []Edit) (all any, ok bool) {
	if json.Unmarshal(body, &all) != nil {
		return nil, false
	}
	for _, e := range edits {
		object, _ := all.(map[string]any)
		nodes, _ := object["prompt"].(map[string]any)
		node, _ := nodes[e.Node].(map[string]any)
		inputs, _ := node["inputs"].(map[string]any)
		switch inputs[e.Input].(type) {
		case string:
			inputs[e.Input] = strconv.Itoa(e.Value)
		case float64:
			inputs[e.Input] = float64(e.Value)
		default:
			return nil, false
		}
	}
	return all, true
}

// FuzzWithInputs: an edited body differs from what came in the edited inputs alone.
func FuzzWithInputs(f *testing.F) {
	f.Add([]byte(`{"prompt": {"2": {"inputs": {"width": 1024, "height": "768", "x": ["1", 0]}}, "1": {"inputs": {"text": "a\"b\\"}}}, "extra_data": {"x": "é"}}`), "2", "width", "height")
	f.Add([]byte(`{"prompt": {"2": {"inputs": {"width": 1, "width": 2}, "inputs": {"height": 5, "width": 1e9}}}, "prompt": {"2": {"inputs": {"height": "", "width": -0.5}}}}`), "2", "width", "height")
	f.Add([]byte(" {\"prompt\":\n{\"\\u0032\":{\"inputs\":{\"w\":\"\\\"\",\"h\":1}}}}\t"), "2", "w", "h")
	f.Fuzz(func(t *testing.T, body []byte, node, first, second string) {
		edits := []Edit{{node, first, 680}}
		if second != first {
			edits = append(edits, Edit{node, second, 512})
		}
		got, ok := WithInputs(body, edits)
		if !ok {
			if !bytes.Equal(got, body) {
				t.Fatalf("it was not edited, and is %q", got)
			}
			return
		}
		want, ok := edited(body, edits)
		if !ok {
			return // the standard library does not read it, or replaces what is not UTF-8
		}
		var decoded any
		if err := json.Unmarshal(got, &decoded); err != nil {
			t.Fatalf("%q: %v", got, err)
		}
		assert.Equal(t, want, decoded)
	})
}

func TestUploadsAreRead(t *testing.T) {
	assert.Equal(t, Upload{"a b.png", "sub", "input"}, ParseUpload([]byte(`{"name": "a b.png", "subfolder": "sub", "type": "input", "x": [1]}`)))
	assert.Equal(t, Upload{Name: "a.png"}, ParseUpload([]byte(`{"name": "a.png", "subfolder": 1, "type": null}`)))
	for _, not := range []string{"", "[]", "x", `{"name": "a.png"`, `"a.png"`} {
		assert.Equal(t, Upload{}, ParseUpload([]byte(not)), not)
	}
}

func FuzzParseUpload(f *testing.F) {
	f.Add([]byte(`{"name": "a.png", "subfolder": "", "type": "input"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		u := ParseUpload(body)
		if len(u.Name)+len(u.Subfolder)+len(u.Folder) > 3*len(body)+100 {
			t.Fatalf("%d bytes became %+v", len(body), u)
		}
		var want struct{ Name string }
		if bytes.Count(body, []byte("name")) == 1 && json.Unmarshal(body, &want) == nil && want.Name != u.Name && bytes.Contains(body, []byte(`"name"`)) && len(want.Name) < maxText {
			assert.Equal(t, want.Name, u.Name)
		}
	})
}
