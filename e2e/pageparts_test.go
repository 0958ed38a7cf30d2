// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/lab/simulation"
)

// partsOf waits for a workflow's last prompt on the page, and returns its parts in s and its
// duration.
func partsOf(t *testing.T, p livePage, prompts int) (parts map[string]float64, lasted float64) {
	t.Helper()
	var list struct {
		Prompts []struct{ ID string }
		Held    int
	}
	require.Eventually(t, func() bool {
		text, err := get(p.url() + "/v1/prompts")
		return err == nil && json.Unmarshal([]byte(text), &list) == nil && len(list.Prompts) == prompts
	}, patience, 1e8)
	text, err := get(p.url() + "/v1/prompts/" + list.Prompts[0].ID)
	require.NoError(t, err)
	var detail struct {
		Duration float64
		Parts    []struct {
			Kind    string
			Seconds float64
		}
	}
	require.NoError(t, json.Unmarshal([]byte(text), &detail))
	parts = map[string]float64{}
	sum := 0.0
	for _, part := range detail.Parts {
		parts[part.Kind] = part.Seconds
		sum += part.Seconds
	}
	assert.InEpsilon(t, detail.Duration, sum, 0.01, "the parts add up")
	return parts, detail.Duration
}

// TestThePageNamesARetryAndAnotherProcess: an image whose decoder runs out of memory is decoded
// in tiles, and a program without traces works beside a photo.
func TestThePageNamesARetryAndAnotherProcess(t *testing.T) {
	beside(t, waiting)
	j := prepareJoined(t, "")
	p := newLivePage(t)
	j.environment = append(j.environment, p.environment())
	j.start(t)
	// 46 GiB hold the sampler's 17 GiB beside the model, and not the decoder's 44.
	large := simulation.Image{Checkpoint: largeCheckpoint, Side: 3072, Batch: 2, Steps: 2}
	require.NoError(t, simulation.NewUsers("http://"+j.comfyui[0].proxy).Generate(withPatience(t), "painter-1", []simulation.Image{large}))
	parts, lasted := partsOf(t, p, 1)
	const tiles = 3 * 6 * 6 * 2 // of 33 ms
	// On a busy machine each tile of the simulated server is late, which makes it longer, never shorter.
	assert.GreaterOrEqual(t, parts["retry"], 0.65*tiles*0.0333, "all tiles")
	assert.LessOrEqual(t, parts["retry"], 2*tiles*0.0333, "nothing but the tiles")
	assert.Less(t, parts["loading"], lasted-parts["retry"])

	ctx, cancel := context.WithCancel(t.Context())
	var other sync.WaitGroup
	other.Go(func() { j.work[0].UseBeside(ctx, 4242, 40) })
	for i := range 4 { // the first loads its model; processes are listed every 5 s
		j.photo(t, 1280+i, nil)
	}
	parts, lasted = partsOf(t, p, 5)
	assert.InDelta(t, 0.4*lasted, parts["shared"], 0.15*lasted, "another process used 40 %%")
	cancel()
	other.Wait()
	j.photo(t, 1270, nil)
	j.photo(t, 1260, nil)
	parts, _ = partsOf(t, p, 7)
	assert.Zero(t, parts["shared"])
	assert.Zero(t, parts["retry"])
}
