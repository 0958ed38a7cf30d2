// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/lab/simulation"
	"github.com/otelcol-gpu/otelcol-gpu/lab/stack"
)

// reportCommand builds otelcol-gpu-report.
func reportCommand(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "otelcol-gpu-report")
	out, err := exec.Command("go", "build", "-C", "../cmd/otelcol-gpu-report", "-o", path, ".").CombinedOutput()
	require.NoError(t, err, string(out))
	return path
}

// weekInPrometheus fills a Prometheus with a simulated time.
func weekInPrometheus(t *testing.T, week simulation.Week) stack.Store {
	t.Helper()
	data, text := t.TempDir(), filepath.Join(t.TempDir(), "week.txt")
	f, err := os.Create(text)
	require.NoError(t, err)
	_, err = week.WriteTo(f)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	out, err := exec.Command(tool(t, "promtool"), "tsdb", "create-blocks-from", "openmetrics", "--max-block-duration=18h", text, data).CombinedOutput()
	require.NoError(t, err, string(out))
	store, _ := prometheusAt(t, "127.0.0.1:"+strconv.Itoa(port(t)), data, "10m")
	return store
}

// weekInVictoriaMetrics fills a VictoriaMetrics: promtool reads the whole text again
// for each two hours: minutes for a week.
func weekInVictoriaMetrics(t *testing.T, week simulation.Week) stack.Store {
	t.Helper()
	store := victoriaMetrics(t)
	week.Milliseconds = true
	text, feed := io.Pipe()
	go func() {
		_, err := week.WriteTo(feed)
		_ = feed.CloseWithError(err)
	}()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, store.URL+"/api/v1/import/prometheus", text)
	require.NoError(t, err)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusNoContent, response.StatusCode)
	request, err = http.NewRequestWithContext(t.Context(), http.MethodGet, store.URL+"/internal/force_flush", nil)
	require.NoError(t, err)
	response, err = http.DefaultClient.Do(request)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	return store
}

// fact reads one figure out of a page, in the row that begins with a mark if one is given.
func fact(t *testing.T, page, row, name string) string {
	t.Helper()
	if row != "" {
		_, after, ok := strings.Cut(page, row)
		require.True(t, ok, "the page has no %s", row)
		page, _, _ = strings.Cut(after, "</tr>")
	}
	found := regexp.MustCompile(`data-fact="` + name + `">([^<]*)<`).FindStringSubmatch(page)
	require.NotNil(t, found, "the page has no fact %s", name)
	return strings.TrimSpace(found[1])
}

// TestReportFindsThePlantedFacts asks the report about two weeks that differ in what
// was planted in them.
func TestReportFindsThePlantedFacts(t *testing.T) {
	besideFirst(t, working)
	command := reportCommand(t)
	end := time.Now().Truncate(time.Hour)
	for name, test := range map[string]struct {
		week          simulation.Week
		fill          func(*testing.T, simulation.Week) stack.Store
		peak, ratio   string
		idle, busyGPU string
	}{
		"the article's":  {simulation.Week{End: end, Days: 7, GPUs: 4, IdleGPU: 3, PeakHour: 20, MemoryRatio: 2.6, Seed: 1}, weekInVictoriaMetrics, "20:00", "2.6 ×", "gpu3", "gpu1"},
		"another, a day": {simulation.Week{End: end, Days: 1, GPUs: 3, IdleGPU: 0, PeakHour: 14, MemoryRatio: 1.8, Seed: 2}, weekInPrometheus, "14:00", "1.8 ×", "gpu0", "gpu2"},
	} {
		t.Run(name, func(t *testing.T) {
			store := test.fill(t, test.week)
			out := filepath.Join(t.TempDir(), "report.html")
			output, err := exec.Command(command, "-store", store.URL, "-window", strconv.Itoa(test.week.Days)+"d", "-end", end.Format(time.RFC3339), "-timezone", "UTC", "-out", out,
				"-price-kwh", "0.3", "-price-card-hour", "0.8").CombinedOutput()
			require.NoError(t, err, string(output))
			raw, err := os.ReadFile(out)
			require.NoError(t, err)
			page := string(raw)
			assert.Equal(t, test.peak, fact(t, page, "", "peak_hour"))
			assert.Equal(t, test.ratio, fact(t, page, `data-class="buildings"`, "memory_against"))
			assert.Equal(t, test.idle, fact(t, page, "", "idle_cards"))
			assert.Contains(t, fact(t, page, "", "simulated"), "SIMULATED")
			busy, err := strconv.ParseFloat(strings.TrimSuffix(fact(t, page, `data-card="`+test.busyGPU+`"`, "idle"), " %"), 64)
			require.NoError(t, err)
			assert.Less(t, busy, 95.0)
			assert.Equal(t, 4, strings.Count(page, "<svg "), "all plots are there")
			assert.NotContains(t, page, "<script")
			assert.NotRegexp(t, `(src|href)="http`, page, "nothing comes from elsewhere")
			if keep := os.Getenv("KEEP_REPORT"); keep != "" && test.week.Days == 7 {
				require.NoError(t, os.WriteFile(keep, raw, 0o600))
			}
		})
	}
}

// TestReportNamesMistakesInItsFlags checks the messages of common mistakes.
func TestReportNamesMistakesInItsFlags(t *testing.T) {
	beside(t, working)
	command := reportCommand(t)
	store, _ := prometheus(t, "10m")
	for _, test := range []struct {
		arguments []string
		want      string
	}{
		{[]string{"-window", "a week"}, `-window: "a week" is not a valid duration; use for example 24h, 7d or 30d`},
		{[]string{"-window", "5m"}, "shorter than an hour"},
		{[]string{"-timezone", "Mars"}, `-timezone: "Mars" is not a valid time zone; use for example Asia/Shanghai`},
		{[]string{"-end", "yesterday"}, `-end: "yesterday" is not a valid time; use for example`},
		{[]string{"-store", "nowhere"}, `-store: "nowhere" is not a valid URL; use http://host:port`},
		{[]string{"-traces", "nowhere"}, `-traces: "nowhere" is not a valid URL; use http://host:port`},
		{[]string{"-price-kwh", "-1"}, "must not be negative"},
		{[]string{"-store", store.URL}, "the store has no comfyui_prompts_total"},
		{[]string{"-store", store.URL, "-token-file", "/does/not/exist"}, "-token-file: open /does/not/exist"},
	} {
		out, err := exec.Command(command, append(test.arguments, "-out", filepath.Join(t.TempDir(), "x.html"))...).CombinedOutput()
		require.Error(t, err)
		assert.Contains(t, string(out), test.want)
	}
}
