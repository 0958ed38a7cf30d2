// SPDX-License-Identifier: Apache-2.0

package sizing

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

// jsonNode is a node of a test's workflow, as JSON.
func jsonNode(id, class, inputs string) string {
	return fmt.Sprintf(`%q: {"class_type": %q, "inputs": {%s}}`, id, class, inputs)
}

// saved is an output node for another's image.
func saved(id, of string) string {
	return jsonNode(id, "SaveImage", fmt.Sprintf(`"images": [%q, 0]`, of))
}

func sizeOf(t testing.TB, s *Sizer, nodes ...string) Sizing {
	t.Helper()
	sub, err := bounds.ParseSubmission(strings.NewReader(`{"prompt": {` + strings.Join(nodes, ", ") + `}}`))
	require.NoError(t, err)
	return s.Of(&sub)
}

// TestOnlyExecutedNodesAndTheirConstantsCount, and a size that cannot be read is large.
func TestOnlyExecutedNodesAndTheirConstantsCount(t *testing.T) {
	const class = "DDColor_Colorize"
	real := func(size string) string {
		return jsonNode("2", class, `"image": ["1", 0], "model_input_size": `+size)
	}
	decoy := jsonNode("0", class, `"model_input_size": 64`)
	for name, test := range map[string]struct {
		nodes []string
		side  float64
		class string
	}{
		"honest":                     {[]string{real("400"), saved("3", "2")}, 400, "people"},
		"link alone":                 {[]string{real(`["1", 1]`), saved("3", "2")}, 0, "buildings"},
		"link and a decoy":           {[]string{real(`["1", 1]`), saved("3", "2"), decoy}, 0, "buildings"},
		"link and an executed decoy": {[]string{real(`["1", 1]`), saved("3", "2"), decoy, saved("4", "0")}, 64, "buildings"},
		"decoy alone":                {[]string{jsonNode("2", "HeavyUpscale", ""), saved("3", "2"), decoy}, 0, "other"},
		"large decoy":                {[]string{real("400"), saved("3", "2"), jsonNode("0", class, `"model_input_size": 4096`)}, 400, "people"},
		"decoys in a cycle": {[]string{
			real("1280"), saved("3", "2"), jsonNode("5", class, `"image": ["6", 0], "model_input_size": 64`), jsonNode("6", class, `"image": ["5", 0], "model_input_size": 64`),
		}, 1280, "buildings"},
		"output that a decoy is linked to":      {[]string{real("1280"), saved("3", "2"), jsonNode("0", class, `"image": ["3", 0], "model_input_size": 64`)}, 1280, "buildings"},
		"output in a cycle":                     {[]string{real("1280"), jsonNode("3", "SaveImage", `"images": ["2", 0], "x": ["4", 0]`), saved("4", "3"), decoy}, 1280, "buildings"},
		"itself":                                {[]string{jsonNode("2", class, `"image": ["2", 0], "model_input_size": ["2", 0]`), saved("3", "2")}, 0, "buildings"},
		"several executed":                      {[]string{real("400"), saved("3", "2"), jsonNode("4", class, `"image": ["2", 0], "model_input_size": 1280`), saved("5", "4")}, 1280, "buildings"},
		"constant":                              {[]string{real(`["9", 0]`), saved("3", "2"), jsonNode("9", "PrimitiveInt", `"value": 400`)}, 400, "people"},
		"constant of a constant":                {[]string{real(`["9", 0]`), saved("3", "2"), jsonNode("9", "INTConstant", `"value": ["8", 0]`), jsonNode("8", "easy int", `"value": "1280"`)}, 1280, "buildings"},
		"constant with another number":          {[]string{real(`["9", 0]`), saved("3", "2"), jsonNode("9", "PrimitiveInt", `"value": "١٢٨٠", "number": 64`)}, 0, "buildings"},
		"constants in a cycle":                  {[]string{real(`["9", 0]`), saved("3", "2"), jsonNode("9", "PrimitiveInt", `"value": ["9", 0]`)}, 0, "buildings"},
		"two constants of one id":               {[]string{real(`["9", 0]`), saved("3", "2"), jsonNode("9", "PrimitiveInt", `"value": 64`), jsonNode("9", "PrimitiveInt", `"value": 1280`)}, 0, "buildings"},
		"computed":                              {[]string{real(`["9", 0]`), saved("3", "2"), jsonNode("9", "MathExpression", `"value": 64, "expression": "a * 20"`)}, 0, "buildings"},
		"link after a number":                   {[]string{real(`64, "model_input_size": ["1", 1]`), saved("3", "2")}, 0, "buildings"},
		"number after a link":                   {[]string{real(`["1", 1], "model_input_size": 400`), saved("3", "2")}, 400, "people"},
		"object":                                {[]string{real(`{"__value__": 1280}`), saved("3", "2"), jsonNode("", "PrimitiveInt", `"value": 64`)}, 0, "buildings"},
		"behind more inputs than are read":      {[]string{jsonNode("2", class, manyInputs(300)+`"image": ["1", 0], "model_input_size": 1280`), saved("3", "2"), decoy}, 64, "buildings"},
		"behind more nodes than are read":       {[]string{manyNodes(bounds.Nodes), real("1280"), saved("3", "2")}, 0, "buildings"},
		"number of an input without a name":     {[]string{jsonNode("1", "KSampler", `"": 64`), saved("3", "1")}, 0, "other"},
		"latent whose height is hidden":         {[]string{jsonNode("1", "EmptyLatentImage", `"width": 64, "height": ["5", 0]`), real("64"), saved("3", "2"), saved("4", "1")}, 64, "buildings"},
		"latent of sound":                       {[]string{jsonNode("1", "EmptyLatentAudio", `"seconds": 5`), real("400"), saved("3", "2"), saved("4", "1")}, 400, "people"},
		"model of a node that is not executed":  {[]string{real("400"), saved("3", "2"), jsonNode("0", "UNETLoader", `"unet_name": "x"`)}, 400, "people"},
		"decoy before a duplicate that is used": {[]string{jsonNode("2", class, `"model_input_size": 64`), real("1280"), saved("3", "2")}, 1280, "buildings"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := NewSizer(nil, nil)
			require.NoError(t, err)
			z := sizeOf(t, s, test.nodes...)
			assert.InDelta(t, test.side, z.Side(), 0)
			assert.Equal(t, test.class, z.TaskClass)
			assert.Empty(t, z.Model)
		})
	}
}

func manyInputs(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `"x%d": 1, `, i)
	}
	return b.String()
}

func manyNodes(n int) string {
	all := make([]string, n)
	for i := range all {
		all[i] = jsonNode(fmt.Sprint("n", i), "PreviewImage", "")
	}
	return strings.Join(all, ", ")
}

// TestHiddenSizeIsOfTheClassOfTheLargestImages that the prompt may be of, whatever their order.
func TestHiddenSizeIsOfTheClassOfTheLargestImages(t *testing.T) {
	people, buildings := TaskClass{Name: "people", MaxSide: 680, Node: "DDColor*"}, TaskClass{Name: "buildings", MinSide: 960, MaxSide: 1280, Node: "DDColor*"}
	for want, classes := range map[string][]TaskClass{
		"buildings": {buildings, people},
		"film":      {people, {Name: "film", Model: "film*"}, buildings},
		"all":       {{Name: "all"}, people, buildings},
		"b":         {{Name: "b", MaxSide: 900}, {Name: "a", MaxSide: 500}},
		"other":     {people},
		"huge":      {people, {Name: "huge", MinSide: 2000}, buildings},
	} {
		t.Run(want, func(t *testing.T) {
			s, err := NewSizer(nil, classes)
			require.NoError(t, err)
			z := sizeOf(t, s, jsonNode("2", "DDColor_Colorize", `"model_input_size": ["1", 1], "checkpoint": ["1", 2]`), saved("3", "2"))
			assert.Equal(t, want, z.TaskClass)
		})
	}
	s, err := NewSizer(nil, []TaskClass{people, buildings})
	require.NoError(t, err)
	assert.Equal(t, "other", sizeOf(t, s, jsonNode("2", "EmptyLatentImage", `"width": ["1", 1], "height": 64`), saved("3", "2")).TaskClass, "no class of its nodes")
}

// TestConfiguredNodesMayBeOutputs: whether a node of a configured rule is one is not known.
func TestConfiguredNodesMayBeOutputs(t *testing.T) {
	s, err := NewSizer([]Rule{{Node: "MySave", Size: "target"}}, nil)
	require.NoError(t, err)
	z := sizeOf(t, s, jsonNode("2", "MySave", `"target": 1280, "image": ["1", 0]`), saved("3", "1"))
	assert.InDelta(t, 1280, z.Side(), 0)
}

// TestLargeWorkflowsAreSizedInProportion to their nodes and links, whatever those are.
func TestLargeWorkflowsAreSizedInProportion(t *testing.T) {
	s, err := NewSizer(nil, nil)
	require.NoError(t, err)
	large := bounds
	large.Nodes = 16384
	took := func(n int, shape func(i int) string) time.Duration {
		all := make([]string, n)
		for i := range all {
			all[i] = shape(i)
		}
		sub, err := large.ParseSubmission(strings.NewReader(`{"prompt": {` + strings.Join(append(all, saved("last", fmt.Sprint(n-1))), ", ") + `}}`))
		require.NoError(t, err)
		var times []time.Duration
		for range 5 {
			begin := time.Now()
			z := s.Of(&sub)
			times = append(times, time.Since(begin))
			assert.Equal(t, "buildings", z.TaskClass)
		}
		return slices.Min(times)
	}
	for name, shape := range map[string]func(i int) string{
		"chain": func(i int) string {
			return jsonNode(fmt.Sprint(i), "DDColor_Colorize", fmt.Sprintf(`"image": ["%d", 0], "model_input_size": 1280`, i-1))
		},
		"cycle": func(i int) string {
			return jsonNode(fmt.Sprint(i), "DDColor_Colorize", fmt.Sprintf(`"image": ["%d", 0], "model_input_size": ["%d", 0]`, i^1, i^1))
		},
		"one id": func(i int) string {
			return jsonNode("2", "DDColor_Colorize", `"image": ["2", 0], "model_input_size": 1280, "x": ["2", 0]`) + fmt.Sprintf(`, "p%d": {"class_type": "SaveImage", "inputs": {"images": ["2", 0]}}`, i)
		},
	} {
		t.Run(name, func(t *testing.T) {
			few, many := took(500, shape), took(8000, shape) // a 16th; by the square it were a 256th
			assert.Less(t, many, 80*few+20*time.Millisecond)
		})
	}
}

// isDecoy reports whether a node has the decoy's id, or is linked to it.
func isDecoy(n protocol.Node) bool {
	return n.ID == "decoy" || slices.ContainsFunc(n.Links, func(l protocol.Link) bool { return l.Node == "decoy" })
}

// FuzzOf: no workflow makes it fail, and a node that nothing is linked to changes nothing.
func FuzzOf(f *testing.F) {
	f.Add(jsonNode("2", "DDColor_Colorize", `"model_input_size": ["2", 1]`) + ", " + saved("3", "2"))
	f.Add(jsonNode("2", "DDColor_Colorize", `"model_input_size": ["9", 1]`) + ", " + jsonNode("9", "PrimitiveInt", `"value": ["9", 0]`) + ", " + saved("3", "2"))
	f.Add(jsonNode("2", "EmptyLatentImage", `"width": 64, "width": [1, 2], "height": {"__value__": 5}`) + ", " + saved("2", "2"))
	s, err := NewSizer(nil, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, nodes string) {
		body := `{"prompt": {"out": {"class_type": "SaveImage", "inputs": {"images": ["in", 0]}}, ` + nodes + `}}`
		sub, err := bounds.ParseSubmission(strings.NewReader(body))
		if err != nil || !json.Valid([]byte(body)) || sub.IsCut || len(sub.Nodes) == bounds.Nodes || slices.ContainsFunc(sub.Nodes, isDecoy) {
			t.Skip()
		}
		with := strings.Replace(body, `{"out"`, `{"decoy": {"class_type": "DDColor_Colorize", "inputs": {"model_input_size": 64}}, "out"`, 1)
		forged, err := bounds.ParseSubmission(strings.NewReader(with))
		require.NoError(t, err)
		if len(forged.Nodes) != len(sub.Nodes)+1 { // another prompt follows
			t.Skip()
		}
		assert.Equal(t, s.Of(&sub), s.Of(&forged))
	})
}
