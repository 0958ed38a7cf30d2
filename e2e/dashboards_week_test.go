// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/lab/simulation"
	"github.com/otelcol-gpu/otelcol-gpu/lab/stack"
)

// recordedDay is a Prometheus with a simulated day, and what the recording rules make of it.
func recordedDay(t *testing.T, day simulation.Week) stack.Store {
	t.Helper()
	data, text, promtool := t.TempDir(), filepath.Join(t.TempDir(), "day.txt"), tool(t, "promtool")
	f, err := os.Create(text)
	require.NoError(t, err)
	_, err = day.WriteTo(f)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	backfill := func(arguments ...string) {
		out, err := exec.Command(promtool, append([]string{"tsdb", "create-blocks-from"}, arguments...)...).CombinedOutput()
		require.NoError(t, err, string(out))
	}
	backfill("openmetrics", "--max-block-duration=18h", text, data)
	rules := filepath.Join(root, "deploy", "prometheus", "rules")
	var store stack.Store
	for range 2 { // in the second round there are the series on which rules depend that rules record
		s, p := startPrometheus(t, "127.0.0.1:"+strconv.Itoa(port(t)), data, "global: {scrape_interval: 1h}\n")
		store = s
		blocks := t.TempDir()
		backfill("rules", "--url="+store.URL, "--start="+strconv.FormatInt(day.End.AddDate(0, 0, -day.Days).Unix(), 10), "--end="+strconv.FormatInt(day.End.Unix(), 10),
			"--eval-interval=3m", "--output-dir="+blocks, filepath.Join(rules, "history.yaml"), filepath.Join(rules, "prices.yaml"))
		_, err := p.Stop(patience)
		require.NoError(t, err)
		require.NoError(t, os.CopyFS(data, os.DirFS(blocks)))
	}
	store, _ = startPrometheus(t, "127.0.0.1:"+strconv.Itoa(port(t)), data, "global: {scrape_interval: 1h}\n")
	return store
}

// TestCapacityFindsThePlantedFacts asks the panels of the dashboard about a day in which the
// facts were planted.
func TestCapacityFindsThePlantedFacts(t *testing.T) {
	besideFirst(t, working)
	day := simulation.Week{End: time.Now().Truncate(time.Hour), Days: 1, GPUs: 3, IdleGPU: 0, PeakHour: 14, MemoryRatio: 1.8, Seed: 2}
	store := recordedDay(t, day)
	panels, _ := grafanaPanels(t)
	length := strconv.Itoa(day.Days * 24 * 3600)
	askOver := func(length, title string, query int) []stack.Series {
		for _, p := range panels {
			if p.board == "capacity" && p.title == title {
				expr := strings.NewReplacer("$__range_s", length, "$__range", length+"s", "$host", ".*", "$gpu", ".*").Replace(p.targets[query].Expr)
				series, err := store.QueryAt(t.Context(), expr, day.End)
				require.NoError(t, err)
				require.NotEmpty(t, series, "%s: %s", title, expr)
				return series
			}
		}
		require.Fail(t, "there is no panel "+title)
		return nil
	}
	ask := func(title string, query int) []stack.Series { return askOver(length, title, query) }
	ended, err := store.QueryAt(t.Context(), `sum(last_over_time(comfyui_prompts_total{comfyui_prompt_outcome="success"}[1d]))`, day.End)
	require.NoError(t, err)
	require.Len(t, ended, 1)
	assert.InEpsilon(t, ended[0].Value(), ask("Images in this range", 0)[0].Value(), 0.02)
	twice := strconv.Itoa(2 * day.Days * 24 * 3600) // the default range of an installation that is half as old
	assert.InEpsilon(t, ended[0].Value(), askOver(twice, "Images in this range", 0)[0].Value(), 0.02)
	assert.InEpsilon(t, ask("Energy cost in this range", 0)[0].Value(), askOver(twice, "Energy cost in this range", 0)[0].Value(), 0.02)
	assert.Equal(t, strconv.Itoa(day.PeakHour), ask("Peak hour", 0)[0].Labels["hour"])
	assert.Len(t, ask("Average day", 0), 24)
	assert.InEpsilon(t, day.MemoryRatio, ask("Memory, buildings ÷ people", 0)[0].Value(), 0.05)
	assert.InDelta(t, 1.0, ask("Idle GPUs", 0)[0].Value(), 0)
	idlest := ask("Idle share of each GPU", 0)[0]
	assert.Equal(t, fmt.Sprintf("gpu%d", day.IdleGPU), idlest.Labels["hw_name"])
	assert.Greater(t, idlest.Value(), 0.95)
	need := map[string]float64{}
	for _, s := range ask("Each task class", 0) {
		need[s.Labels["comfyui_task_class"]] = s.Value()
	}
	assert.InEpsilon(t, day.MemoryRatio, need["buildings"]/need["people"], 0.05)
	assert.NotEmpty(t, ask("Each model version", 0)[0].Labels["comfyui_model"])

	// The cost of an image is made of its joules and GPU-seconds, at the shipped prices.
	joules, used := ask("Energy of an image", 0)[0].Value(), ask("GPU time of an image", 0)[0].Value()
	assert.InEpsilon(t, joules/3.6e6*0.30+used/3600*0.80, ask("Cost of an image", 0)[0].Value(), 0.02)
	assert.Greater(t, ask("Cost with idle GPUs", 0)[0].Value(), ask("Cost of an image", 0)[0].Value())
	assert.InDelta(t, 0.80, ask("Price of a GPU-hour", 0)[0].Value(), 1e-9)
}
