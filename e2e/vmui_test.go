// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
	"github.com/otelcol-gpu/otelcol-gpu/lab/simulation"
	"github.com/otelcol-gpu/otelcol-gpu/lab/stack"
)

var screenshots = flag.String("screenshots", "", "the folder for screenshots of vmui's dashboards, after four minutes of work instead of some seconds")

// shownPanel is a panel of vmui as a reader sees it.
type shownPanel struct {
	Title   string
	Series  int
	Notes   []string
	Loading bool
}

// panelsShown reads the panels of the open rows.
const panelsShown = `[...document.querySelectorAll(".vm-predefined-dashboard-panels-panel")].map(p => ({
	Title: (p.querySelector(".vm-predefined-panel-header__title") || p).innerText,
	Series: p.querySelectorAll(".vm-legend-item").length,
	Notes: [...p.querySelectorAll(".vm-alert, .vm-predefined-dashboard-panels-panel__alert, .vm-legend-group-header__warning")].map(a => a.innerText),
	Loading: !!p.querySelector(".vm-spinner, .vm-line-loader"),
}))`

// openRows opens each closed row of the dashboard, and returns how many there are.
const openRows = `(() => {
	const rows = [...document.querySelectorAll(".vm-predefined-dashboard")];
	for (const row of rows) {
		const header = row.querySelector(".vm-predefined-dashboard-header");
		if (!row.querySelector(".vm-predefined-dashboard-panels")) (row.querySelector(".vm-accordion-header") || header).click();
	}
	return rows.length;
})()`

// TestVMUIShowsEachDashboard opens each dashboard of vmui in Chromium, with each of its rows,
// for a host with 1, 8 and 64 GPUs: no panel leaves series out, and each that is empty says
// why in its title.
func TestVMUIShowsEachDashboard(t *testing.T) {
	besideFirst(t, working)
	for _, test := range []struct {
		gpus     int
		profiles []string
		interval string
	}{
		{1, []string{"rtx-4080-super"}, "1s"},
		{8, []string{"l40s", "h100"}, "1s"},
		{64, []string{"h100"}, "3s"},
	} {
		t.Run(fmt.Sprint(test.gpus, " GPUs"), func(t *testing.T) {
			profiles := make([]string, test.gpus)
			for i := range profiles {
				profiles[i] = test.profiles[i%len(test.profiles)]
			}
			m := newMachine(t, fakenvml.Current, profiles...)
			for i := 1; i < len(m.gpus); i += 3 { // others work, too
				m.gpus[i].SetLoad(m.profiles[i])
			}
			store := victoriaMetrics(t, "-vmui.customDashboardsPath="+filepath.Join(root, "deploy", "vmui", "dashboards"))
			proxy, working := serveImages(t, m, []stack.Store{store}, "OTELCOL_GPU_COLLECTION_INTERVAL="+test.interval)
			for kind := range 2 {
				working.Go(func(ctx context.Context) { orderKind(ctx, simulation.NewUsers(proxy), kind) })
			}
			eventually(t, store, "sum(comfyui_execution_memory_need_bytes_count) > 2", atLeast(1))
			eventually(t, store, "hw_gpu_up == 1", atLeast(test.gpus))
			eventually(t, store, `sum by (network_io_direction) (rate(hw_gpu_io_bytes_total{hw_name="gpu0"}[30s])) > 0`, atLeast(2))
			if test.gpus > 1 {
				m.state.Event(1, fakenvml.EventXID, 31)
				eventually(t, store, `hw_gpu_xid_errors_total{hw_gpu_xid="31"} == 1`, atLeast(1))
			}
			if *screenshots != "" {
				require.Eventually(t, func() bool {
					series, err := store.Query(t.Context(), `count(count_over_time(hw_gpu_up[5m:15s]) >= 16)`)
					return err == nil && len(series) == 1 && int(series[0].Value()) == test.gpus
				}, 4*time.Minute+patience, time.Second, "four minutes of samples of each GPU")
			}
			chromium := browser(t)
			require.NoError(t, chromedp.Do(chromium, chromedp.EmulateViewport(1400, 9000)))
			titles := vmuiTitles(t)
			panels, empty := 0, 0
			for i, title := range titles {
				shown := openDashboard(t, chromium, store.URL, i, title.panels)
				for _, p := range shown {
					assert.Empty(t, p.Notes, "%s: %s", title.title, p.Title)
					assert.LessOrEqual(t, p.Series, 20, "%s: %s", title.title, p.Title)
					if p.Series == 0 {
						empty++
						assert.True(t, strings.HasSuffix(p.Title, ")"), "%s: %s is empty and does not say why", title.title, p.Title)
					}
				}
				panels += len(shown)
				if *screenshots != "" {
					screenshot(t, chromium, filepath.Join(*screenshots, fmt.Sprintf("vmui-%s-%d.webp", title.name, test.gpus)))
				}
			}
			figure.Print(fmt.Sprintf("vmui.%d_gpus.panels", test.gpus), float64(panels), "panels")
			figure.Print(fmt.Sprintf("vmui.%d_gpus.empty_and_explained", test.gpus), float64(empty), "panels")
		})
	}
}

// TestVMUINotesAreSeen shows the test above a dashboard with its faults: a panel whose series
// vmui leaves out, and one that is empty.
func TestVMUINotesAreSeen(t *testing.T) {
	beside(t, working)
	folder := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(folder, "faults.json"), []byte(`{"title": "Faults", "rows": [{"title": "First", "panels": [{"title": "Many", "expr": ["many"]}]}, {"title": "Second", "panels": [{"title": "None", "expr": ["none"]}]}]}`), 0o600))
	store := victoriaMetrics(t, "-vmui.customDashboardsPath="+folder)
	ctx := withPatience(t)
	for ctx.Err() == nil { // a line needs two samples
		var text strings.Builder
		for i := range 30 {
			fmt.Fprintf(&text, "many{i=\"%d\"} 1\n", i)
		}
		response, err := http.Post(store.URL+"/api/v1/import/prometheus", "text/plain", strings.NewReader(text.String()))
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		if samples, err := store.Query(ctx, "count(count_over_time(many[1m]) > 1)"); err == nil && len(samples) == 1 {
			break
		}
	}
	chromium := browser(t)
	require.NoError(t, chromedp.Do(chromium, chromedp.EmulateViewport(1400, 9000), chromedp.Navigate(vmuiDashboards(store.URL))))
	require.Eventually(t, func() bool {
		shown := readPanels(chromium)
		return len(shown) == 2 && shown[0].Title == "Many" && len(shown[0].Notes) == 1 && strings.Contains(shown[0].Notes[0], "20 series out of 30") &&
			shown[1].Title == "None" && shown[1].Series == 0 && !shown[1].Loading
	}, patience, 250*time.Millisecond)
}

// readPanels opens the rows that are closed, and reads the panels; none while the page is loaded.
func readPanels(chromium context.Context) []shownPanel {
	if _, err := chromedp.Run(chromium, chromedp.Evaluate[int](openRows)); err != nil {
		return nil
	}
	shown, err := chromedp.Run(chromium, chromedp.Evaluate[[]shownPanel](panelsShown))
	if err != nil {
		return nil
	}
	return shown
}

// vmuiDashboards is the address of the dashboards, with the last five minutes.
func vmuiDashboards(base string) string {
	return base + "/vmui/?#/dashboards?g0.range_input=5m&g0.relative_time=last_5_minutes"
}

type vmuiTitle struct {
	name, title string
	panels      int
}

// vmuiTitles are the dashboards in the order of their files.
func vmuiTitles(t *testing.T) (all []vmuiTitle) {
	t.Helper()
	panels := map[string]int{}
	for _, p := range vmuiPanels(t) {
		panels[p.board]++
	}
	titles := map[string]string{}
	for name, raw := range boardFiles(t, "deploy/vmui/dashboards") {
		_, after, _ := strings.Cut(string(raw), `"title": "`)
		titles[name], _, _ = strings.Cut(after, `"`)
	}
	for name, n := range panels {
		all = append(all, vmuiTitle{name, titles[name], n})
	}
	slices.SortFunc(all, func(a, b vmuiTitle) int { return strings.Compare(a.name, b.name) })
	return all
}

// openDashboard opens the dashboard with an index, opens all of its rows and waits until its
// panels have asked their queries. The window is as high as the page: what is not in sight
// does not ask.
func openDashboard(t *testing.T, chromium context.Context, base string, index, panels int) (shown []shownPanel) {
	t.Helper()
	require.NoError(t, chromedp.Do(chromium, chromedp.Navigate(vmuiDashboards(base))))
	require.Eventually(t, func() bool {
		clicked, err := chromedp.Run(chromium, chromedp.Evaluate[bool](fmt.Sprintf(`(() => {
			const tab = document.querySelectorAll(".vm-predefined-panels-tabs__tab")[%d];
			if (tab) tab.click();
			return !!tab;
		})()`, index)))
		return err == nil && clicked
	}, patience, 200*time.Millisecond, "vmui shows no dashboard %d", index)
	settled := 0
	require.Eventually(t, func() bool {
		shown = readPanels(chromium)
		ready := len(shown) == panels && !slices.ContainsFunc(shown, func(p shownPanel) bool {
			return p.Loading || p.Series == 0 && !strings.HasSuffix(p.Title, ")")
		})
		if settled++; !ready {
			settled = 0
		}
		return settled == 8 // two seconds
	}, patience, 250*time.Millisecond, "dashboard %d: %v", index, &shown)
	return shown
}

// screenshot saves the page as it is.
func screenshot(t *testing.T, chromium context.Context, path string) {
	t.Helper()
	height, err := chromedp.Run(chromium, chromedp.Evaluate[int](`Math.ceil(Math.max(...[...document.querySelectorAll(".vm-predefined-dashboard")].map(r => r.getBoundingClientRect().bottom + window.scrollY)))`))
	require.NoError(t, err)
	raw, err := chromedp.Run(chromium, func(ctx context.Context, target *chromedp.Target) ([]byte, error) {
		quality := int64(40)
		r, err := cdp.Call(ctx, target, page.CaptureScreenshot, page.CaptureScreenshotParams{
			Format: page.CaptureScreenshotFormatWebp, Quality: &quality, Clip: &page.Viewport{Width: 1400, Height: float64(height), Scale: 0.7}})
		return r.Data, err
	})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, raw, 0o600))
}
