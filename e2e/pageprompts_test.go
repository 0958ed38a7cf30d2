// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/lab/simulation"
)

// rush has several users ask for a photo at the same time, and returns when all have theirs.
func (j *joined) rush(t *testing.T, n, side int) *sync.WaitGroup {
	t.Helper()
	ctx := withPatience(t)
	var users sync.WaitGroup
	for range n {
		j.photos++
		user := fmt.Sprintf("user-%d", j.photos)
		users.Go(func() {
			assert.NoError(t, simulation.NewUsers("http://"+j.comfyui[0].proxy).Order(ctx, user, []simulation.Photo{{Side: side}}))
		})
	}
	return &users
}

// TestThePageExplainsARush follows a rush in Chromium: the queue, the node that runs, the slow
// prompts and why, the slowest in two clicks, and its figures, which are those of the trace
// store. The page finds a collector again that was killed.
func TestThePageExplainsARush(t *testing.T) {
	beside(t, working)
	const side, users = 768, 7
	chromium := browser(t)
	j := prepareJoined(t, "")
	p := newLivePage(t)
	j.environment = append(j.environment, p.environment())
	j.start(t)
	tab := openPage(t, chromium, p.url()+"/?lang=en")
	tab.wait(`document.querySelector('.gpu') !== null && document.body.innerText.includes('No prompt has ended yet')`)
	for range 4 { // the first loads the model, the others tell what is usual
		j.photo(t, side, nil)
	}

	rush := j.rush(t, users, side)
	// The first runs, at one of its nodes; others wait, each at its place.
	tab.wait(`/^1 running [3-6] waiting/.test(document.querySelector('.totals').innerText.replace(/\s+/g, ' '))`)
	tab.wait(`/^running, node [1-9] of [1-9]/.test(document.querySelector('.open.running .text')?.innerText)`)
	tab.wait(`[...document.querySelectorAll('.open.waiting .text')].some((e) => /^2 prompts ahead$/.test(e.innerText))`)
	rush.Wait()
	tab.wait(`[...document.querySelectorAll('tr.prompt .reason')].some((e) => /^slow · waited behind [3-6]$/.test(e.innerText.trim()))`)

	// Of all prompts the last of the rush took longest.
	var slowest *jaegerTrace
	require.Eventually(t, func() bool {
		all := j.jaeger.traces("/api/traces?limit=100&lookback=1h&service=comfyui")
		slowest = nil
		longest, prompts := int64(0), 0
		for i := range all {
			if root := all[i].named("comfyui.prompt"); root != nil {
				prompts++
				if root.Duration > longest {
					longest, slowest = root.Duration, &all[i]
				}
			}
		}
		return prompts == 4+users
	}, patience, 1e8)
	tab.wait(fmt.Sprintf(`document.body.innerText.includes('%d prompts in history')`, 4+users))
	clicks := []string{`nav a[href*="sort=slowest"]`, `.search tr.prompt a`}
	for _, click := range clicks {
		tab.wait(`document.querySelector('` + click + `') !== null`)
		tab.do(chromedp.Click(click))
	}
	tab.wait(`document.querySelector('h1.sentence') !== null && document.querySelector('.waterfall') !== null`)
	id, _ := slowest.named("comfyui.prompt").tag("comfyui.prompt.id").(string)
	require.NotEmpty(t, id)
	assert.Equal(t, "/prompts/"+id, readPage[string](tab, `location.pathname`))
	assert.Regexp(t, `times its usual \d\.\d s: waited \d\.\d s behind [4-6] prompts`, readPage[string](tab, `document.querySelector('h1.sentence').innerText.replaceAll('\u00a0', ' ')`))

	compareWithTrace(t, p, tab, id, slowest)
	assert.Empty(t, tab.noted(false))

	// A collector that was killed and is there again.
	tab.do(chromedp.Click(`.back a`))
	tab.wait(`document.querySelector('.gpu .used') !== null`)
	j.Kill()
	tab.wait(`document.querySelector('.band.lost') !== null`)
	j.start(t)
	tab.wait(`document.querySelector('.band.lost') === null && document.querySelector('.gpu .used') !== null`)
	before := readPage[string](tab, `document.querySelector('.gpu .used').innerText`)
	j.rush(t, 1, 1280).Wait()
	tab.wait(`document.querySelector('.gpu .used').innerText !== ` + fmt.Sprintf("%q", before))
	tab.wait(`document.querySelectorAll('tr.prompt').length === 1`) // the prompts from before are forgotten
	assert.Empty(t, tab.noted(true))
}

// named is the first span with a name; nil if there is none.
func (trace *jaegerTrace) named(name string) *jaegerSpan {
	for i := range trace.Spans {
		if trace.Spans[i].OperationName == name {
			return &trace.Spans[i]
		}
	}
	return nil
}

// compareWithTrace compares the bars of the waterfall, and the JSON behind them, with the spans
// of the trace store.
func compareWithTrace(t *testing.T, p livePage, tab *pageTab, id string, trace *jaegerTrace) {
	t.Helper()
	text, err := get(p.url() + "/v1/prompts/" + id)
	require.NoError(t, err)
	var detail struct {
		Spans []struct {
			ID       string
			Duration float64
			Bill     *struct {
				Energy            *float64 `json:"energy"`
				EnergyUncertainty *float64 `json:"energy_uncertainty"`
				MemoryPeak        *int64   `json:"memory_peak"`
			}
		}
	}
	require.NoError(t, json.Unmarshal([]byte(text), &detail))
	require.Len(t, detail.Spans, len(trace.Spans))
	bars := strings.Join(readPage[[]string](tab, `[...document.querySelectorAll('.spans li')].map((e) => e.innerText.replace(/\s+/g, ' '))`), "\n")
	compared := 0
	for i := range trace.Spans {
		s := &trace.Spans[i]
		for _, shown := range detail.Spans {
			if shown.ID != s.SpanID {
				continue
			}
			assert.InDelta(t, float64(s.Duration)/1e6, shown.Duration, 2e-6, s.OperationName)
			assert.Contains(t, bars, duration(shown.Duration), s.OperationName)
			energy, hasEnergy := s.tag("gpu.energy").(float64)
			peak, hasPeak := s.tag("gpu.memory.peak").(float64)
			if !hasEnergy || !hasPeak || energy == 0 { // of what is too short there is none
				continue
			}
			compared++
			require.NotNil(t, shown.Bill, s.OperationName)
			assert.InEpsilon(t, energy, *shown.Bill.Energy, 1e-6, s.OperationName) // seven digits
			assert.InEpsilon(t, s.tag("gpu.energy.uncertainty"), *shown.Bill.EnergyUncertainty, 1e-6, s.OperationName)
			assert.Equal(t, int64(peak), *shown.Bill.MemoryPeak, s.OperationName)
			memory := digits(peak/(1<<30)) + " GiB"
			if peak < 999.5*(1<<20) {
				memory = digits(peak/(1<<20)) + " MiB"
			}
			assert.Contains(t, bars, memory+" "+joules(energy, *shown.Bill.EnergyUncertainty)+" J", s.OperationName)
		}
	}
	assert.GreaterOrEqual(t, compared, 2, "the execution and a node have a bill")
}

// duration is one of less than a quarter of an hour, in seconds, as the page writes it.
func duration(v float64) string {
	switch {
	case v < 5e-6:
		return "0 s"
	case v < 0.0009995:
		return "< 1 ms"
	case v < 0.9995:
		return digits(1000*v) + " ms"
	}
	return digits(v) + " s"
}

// joules is an energy below a kilojoule with its uncertainty, which has two digits at most.
func joules(v, uncertainty float64) string {
	_, fraction, _ := strings.Cut(digits(v), ".")
	decimals := len(fraction)
	if v < 0.0005 {
		decimals = 0
	}
	if uncertainty > 0 {
		decimals = min(decimals, max(0, 1-int(math.Floor(math.Log10(uncertainty)))))
	}
	return fmt.Sprintf("%.*f ± %.*f", decimals, v, decimals, uncertainty)
}

// digits has three significant digits.
func digits(v float64) string {
	decimals := 0
	for limit := 99.95; v > 0 && v < limit; limit /= 10 {
		decimals++
	}
	return fmt.Sprintf("%.*f", decimals, v)
}
