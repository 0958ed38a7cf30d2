// SPDX-License-Identifier: Apache-2.0

package prompt

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

func TestRetriesBelongToTheNodeThatRan(t *testing.T) {
	at := func(second float64) time.Time {
		return time.Unix(1_700_000_000, 0).Add(time.Duration(second * float64(time.Second)))
	}
	node := func(id string, from, to float64) *Node { return &Node{ID: id, Start: at(from), End: at(to)} }
	sampler, decoder, saver := node("sampler", 1, 5), node("decoder", 5, 9), node("saver", 9, 10)
	for i := range 8 { // one in half a second
		sampler.step(float64(i+1), 8, at(1.5+0.5*float64(i)))
	}
	decoder.step(1, 2, at(8))
	decoder.step(2, 2, at(9))
	p := &Prompt{Started: at(1), Ended: at(10), Nodes: []*Node{sampler, decoder, saver}}
	p.SetRetries([]protocol.Retry{
		{At: at(0.5), Tiled: true}, {At: at(11), Tiled: true}, // of other prompts
		{At: at(2)}, {At: at(2.25)}, {At: at(4.75)}, // steps, of which one ran out of memory twice, and the last
		{At: at(6), Tiled: true},
	})
	assert.Equal(t, 3, sampler.Retried.Count)
	assert.Equal(t, 1000*time.Millisecond, sampler.Retried.Time, "0.75 s for one step, the last until the node's end")
	assert.Equal(t, 1, decoder.Retried.Count)
	assert.Equal(t, 3*time.Second, decoder.Retried.Time, "tiles last until the node's end")
	assert.Zero(t, saver.Retried)
	assert.Equal(t, 4, p.Retried.Count)
	assert.Equal(t, 4*time.Second, p.Retried.Time)

	_, _, ok := decoder.BeforeFirstStep()
	assert.False(t, ok, "what came before its first tile was a try that failed, and no loading")
	_, _, ok = sampler.BeforeFirstStep()
	assert.True(t, ok, "its retries came later")

	p.Outcome = Success
	saved := p.Save()
	assert.Equal(t, p.Retried, saved.Prompt().Retried, "it survives a kill")
	assert.Equal(t, decoder.Retried.Time, saved.Prompt().Nodes[1].Retried.Time)
}
