// SPDX-License-Identifier: Apache-2.0

package browser

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/page"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
)

// fromCatalogue matches the texts of a language that the product says, whatever fills their
// placeholders. Those without a word of their own are left out: they would match anything.
func fromCatalogue(l texts.Language) *regexp.Regexp {
	placeholder := regexp.MustCompile(`\\\{[a-z_]+\\\}`)
	word := regexp.MustCompile(`\pL`)
	var all []string
	for _, key := range texts.Keys(l) {
		if strings.HasPrefix(key, "page.") { // of the scripts
			continue
		}
		for _, args := range []texts.Args{nil, {"n": 1}} {
			text := regexp.QuoteMeta(texts.Message{Key: key, Args: args}.In(l))
			if word.MatchString(placeholder.ReplaceAllString(text, "")) {
				all = append(all, placeholder.ReplaceAllString(text, ".+"))
			}
		}
	}
	slices.Sort(all)
	return regexp.MustCompile(`^(` + strings.Join(slices.Compact(all), "|") + `)$`)
}

// textsIn collects what a reader reads of an answer as JSON.
func textsIn(v any, found map[string]bool) {
	switch v := v.(type) {
	case []any:
		for _, each := range v {
			textsIn(each, found)
		}
	case map[string]any:
		for key, each := range v {
			text, isText := each.(string)
			_, isThrottling := v["share"] // its reason is the attribute's value, beside its text
			if isText && text != "" && slices.Contains(readFields, key) && (!isThrottling || key != "reason") {
				found[text] = true
			}
			textsIn(each, found)
		}
	}
}

var readFields = []string{"text", "remedy", "status", "sentence", "reason", "no_bill", "why"}

// TestWhatTheFixturesSayIsTheProducts: a text that somebody wrote into a fixture, and a key that
// the catalogue lacks, would be on screenshots and nowhere else.
func TestWhatTheFixturesSayIsTheProducts(t *testing.T) {
	key := regexp.MustCompile(`\b(cause|prompt|event|xid|state|alerts|count|figure|well|label|page)\.[a-z_]+(\.[a-z_]+)*\b`)
	kinds := map[string]bool{}
	for _, l := range texts.Languages() {
		known := fromCatalogue(l)
		for _, s := range scenes {
			f := newFixture(t, s)
			found := map[string]bool{}
			collect := func(answer any) {
				raw, err := json.Marshal(answer)
				require.NoError(t, err)
				var decoded any
				require.NoError(t, json.Unmarshal(raw, &decoded))
				textsIn(decoded, found)
			}
			state := f.State(l)
			collect(state)
			if state.Alerts != nil && state.Alerts.Error != "" {
				found[state.Alerts.Error] = true
			}
			for _, p := range f.Prompts(l, page.Query{Limit: 1000}).Prompts {
				detail, ok := f.Prompt(l, p.ID)
				require.True(t, ok)
				collect(detail)
				kinds[p.Outcome] = true
			}
			assert.NotEmpty(t, found, s.name)
			for text := range found {
				assert.True(t, known.MatchString(text), "%s, %s: %q is in no catalogue", s.name, l, text)
				assert.NotRegexp(t, key, text, "%s, %s", s.name, l)
			}
			for _, c := range state.Conditions {
				kinds[c.Cause] = true
			}
		}
	}
	for _, wanted := range []string{"success", "error", "refused", "gpu.memory.critical", "comfyui.out_of_memory", "comfyui.queue.growing", "comfyui.down", "gpu.lost", "gpu.samples.stopped", "gpu.none", "gpu.nvlink.down", "gpu.row_remap.failed", "gpu.throttled.heat"} {
		assert.True(t, kinds[wanted], "no scene has %s", wanted)
	}
}
