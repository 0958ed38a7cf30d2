// SPDX-License-Identifier: Apache-2.0

package sizing

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

// node is one with numbers as inputs.
func node(id, class string, inputs map[string]float64) protocol.Node {
	n := protocol.Node{ID: id, Class: class, Inputs: map[string]protocol.Input{}}
	for name, value := range inputs {
		n.Inputs[name] = protocol.Input{Value: fmt.Sprint(value)}
	}
	return n
}

func TestSizesAreLoweredInProportion(t *testing.T) {
	s, err := NewSizer(nil, nil)
	require.NoError(t, err)
	latent := func(id string, w, h float64) protocol.Node {
		return node(id, "EmptyLatentImage", map[string]float64{"width": w, "height": h})
	}
	size := func(id string, side float64) protocol.Node {
		return node(id, "DDColor_Colorize", map[string]float64{"model_input_size": side})
	}
	for name, of := range map[string]struct {
		nodes []protocol.Node
		side  int
		want  []protocol.Edit
		none  bool
	}{
		"a side":             {[]protocol.Node{size("2", 1280)}, 680, []protocol.Edit{{Node: "2", Input: "model_input_size", Value: 680}}, false},
		"rounded down":       {[]protocol.Node{size("2", 1280)}, 687, []protocol.Edit{{Node: "2", Input: "model_input_size", Value: 680}}, false},
		"landscape":          {[]protocol.Node{latent("1", 1536, 1024)}, 700, []protocol.Edit{{Node: "1", Input: "width", Value: 696}, {Node: "1", Input: "height", Value: 464}}, false},
		"portrait":           {[]protocol.Node{latent("1", 768, 1024)}, 512, []protocol.Edit{{Node: "1", Input: "width", Value: 384}, {Node: "1", Input: "height", Value: 512}}, false},
		"one of several":     {[]protocol.Node{latent("1", 512, 512), size("2", 2048)}, 680, []protocol.Edit{{Node: "1", Input: "width"}, {Node: "1", Input: "height"}, {Node: "2", Input: "model_input_size", Value: 680}}, false},
		"a link":             {[]protocol.Node{node("1", "EmptyLatentImage", map[string]float64{"height": 2048}), size("2", 2048)}, 680, []protocol.Edit{{Node: "1", Input: "width"}, {Node: "1", Input: "height", Value: 680}, {Node: "2", Input: "model_input_size", Value: 680}}, false},
		"small enough":       {[]protocol.Node{size("2", 512)}, 680, nil, true},
		"no size":            {[]protocol.Node{node("1", "LoadImage", nil)}, 680, nil, true},
		"the cap is tiny":    {[]protocol.Node{size("2", 512)}, 63, nil, true},
		"too narrow then":    {[]protocol.Node{latent("1", 2048, 32)}, 680, nil, true},
		"two nodes of an id": {[]protocol.Node{size("2", 2048), size("2", 512)}, 680, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			edits, ok := s.Lower(&protocol.Submission{Nodes: of.nodes}, of.side)
			assert.Equal(t, !of.none, ok)
			if ok {
				assert.Equal(t, of.want, edits)
			}
		})
	}
}

func TestClassNames(t *testing.T) {
	all, err := ClassNames(nil)
	require.NoError(t, err)
	assert.Equal(t, []string{"people", "buildings", Other}, all)
	all, err = ClassNames([]TaskClass{{Name: "x"}})
	require.NoError(t, err)
	assert.Equal(t, []string{"x", Other}, all)
}
