// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
	"github.com/otelcol-gpu/otelcol-gpu/lab/stack"
)

// boardPanel is a panel of a dashboard, of Grafana or of vmui.
type boardPanel struct {
	board, title string
	targets      []boardTarget
}

type boardTarget struct {
	Expr            string
	Range, Exemplar bool
}

func (p *boardPanel) String() string { return p.board + ": " + p.title }

// boardVariable is a choice of a dashboard whose values are those of a label.
type boardVariable struct {
	name, metric, label string
	single              bool
}

var labelValues = regexp.MustCompile(`^label_values\((.*), (\w+)\)$`)

// grafanaPanels are the panels of Grafana's dashboards, and their variables by dashboard.
func grafanaPanels(t *testing.T) (panels []boardPanel, variables map[string][]boardVariable) {
	t.Helper()
	variables = map[string][]boardVariable{}
	for name, raw := range boardFiles(t, "deploy/grafana/dashboards") {
		var d struct {
			Templating struct {
				List []struct {
					Name, Type string
					Query      any
					Multi      bool
				}
			}
			Panels []struct {
				Type, Title string
				Targets     []boardTarget
			}
		}
		require.NoError(t, json.Unmarshal(raw, &d), name)
		for _, v := range d.Templating.List {
			if v.Type == "query" {
				m := labelValues.FindStringSubmatch(fmt.Sprint(v.Query))
				require.NotNil(t, m, "%s: %s", name, v.Name)
				variables[name] = append(variables[name], boardVariable{v.Name, m[1], m[2], !v.Multi})
			}
		}
		for _, p := range d.Panels {
			if p.Type != "row" {
				panels = append(panels, boardPanel{name, p.Title, p.Targets})
			}
		}
	}
	return panels, variables
}

// vmuiPanels are the panels of vmui's dashboards.
func vmuiPanels(t *testing.T) (panels []boardPanel) {
	t.Helper()
	for name, raw := range boardFiles(t, "deploy/vmui/dashboards") {
		var d struct {
			Rows []struct {
				Panels []struct {
					Title string
					Expr  []string
				}
			}
		}
		require.NoError(t, json.Unmarshal(raw, &d), name)
		for _, row := range d.Rows {
			for _, p := range row.Panels {
				panel := boardPanel{board: name, title: p.Title}
				for _, expr := range p.Expr {
					panel.targets = append(panel.targets, boardTarget{Expr: expr, Range: true})
				}
				panels = append(panels, panel)
			}
		}
	}
	return panels
}

func boardFiles(t *testing.T, folder string) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(root, folder, "*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	files := map[string][]byte{}
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		require.NoError(t, err)
		files[strings.TrimSuffix(filepath.Base(path), ".json")] = raw
	}
	return files
}

// boardRange is the time range of the dashboards in the test.
const boardRange = 5 * time.Minute

var boardIntervals = strings.NewReplacer("$__rate_interval", "20s", "$__range_s", strconv.Itoa(int(boardRange.Seconds())), "$__range", strconv.Itoa(int(boardRange.Seconds()))+"s")

// choices are the values of a dashboard's variables, as the store has them: of those that allow
// several, all; of those that allow one, each.
func choices(t *testing.T, store stack.Store, variables []boardVariable) (all []map[string]string) {
	t.Helper()
	all = []map[string]string{{}}
	for _, v := range variables {
		var next []map[string]string
		for _, before := range all {
			text, err := get(store.URL + "/api/v1/label/" + v.label + "/values?" + url.Values{"match[]": {replaceVariables(v.metric, before)}}.Encode())
			require.NoError(t, err)
			var answer struct{ Data []string }
			require.NoError(t, json.Unmarshal([]byte(text), &answer))
			require.NotEmpty(t, answer.Data, "the variable %s has no value", v.name)
			values := answer.Data
			if !v.single {
				values = []string{"(" + strings.Join(answer.Data, "|") + ")"}
			}
			for _, value := range values {
				with := maps.Clone(before)
				with[v.name] = value
				next = append(next, with)
			}
		}
		all = next
	}
	return all
}

func replaceVariables(text string, values map[string]string) string {
	for name, value := range values {
		text = strings.ReplaceAll(text, "$"+name, value)
	}
	return text
}

// series counts what a target shows at a store; a series of nothing but NaN shows nothing.
func (target *boardTarget) series(t *testing.T, store stack.Store, expr string) int {
	t.Helper()
	now := time.Now()
	path, values := "/api/v1/query?", url.Values{"query": {expr}}
	if target.Range {
		path = "/api/v1/query_range?"
		values.Set("start", strconv.FormatInt(now.Add(-boardRange).Unix(), 10))
		values.Set("end", strconv.FormatInt(now.Unix(), 10))
		values.Set("step", "5")
	}
	text, err := get(store.URL + path + values.Encode())
	require.NoError(t, err, expr)
	var answer struct {
		Data struct {
			Result []struct {
				Value  []any
				Values [][]any
			}
		}
	}
	require.NoError(t, json.Unmarshal([]byte(text), &answer))
	n := 0
	for _, series := range answer.Data.Result {
		if slices.ContainsFunc(append(series.Values, series.Value), func(point []any) bool { return len(point) == 2 && point[1] != "NaN" }) {
			n++
		}
	}
	return n
}

// empty reports whether none of the panel's queries has an answer with some values, and partly
// whether one has none.
func (p *boardPanel) empty(t *testing.T, store stack.Store, values map[string]string) (empty, partly bool) {
	t.Helper()
	empty = true
	for _, target := range p.targets {
		if target.series(t, store, boardIntervals.Replace(replaceVariables(target.Expr, values))) > 0 {
			empty = false
		} else {
			partly = true
		}
	}
	return empty, partly
}

// emptyWith lists the values with which a panel is empty; all reports whether each query has an
// answer with some of them.
func (p *boardPanel) emptyWith(t *testing.T, store stack.Store, choices []map[string]string) (empty []map[string]string, all bool) {
	t.Helper()
	for _, values := range choices {
		none, partly := p.empty(t, store, values)
		if none {
			empty = append(empty, values)
		}
		all = all || !partly
	}
	return empty, all
}

// gpusWith are the GPUs of the test on which a panel of one GPU shows something, where that
// depends on the GPU: the reasons that the panels give for the others are true.
var gpusWith = map[string][]string{
	"Fans": {"gpu0"}, "Temperature limits": {"gpu0", "gpu3"}, "Margin to throttling": {"gpu1", "gpu2", "gpu4"},
	"NVLink": {"gpu1", "gpu3"}, "Active NVLinks": {"gpu1", "gpu3"}, "NVLink errors": {"gpu1", "gpu3"},
	"PCIe": {"gpu0", "gpu1", "gpu2", "gpu4"}, "SM activity": {"gpu1", "gpu2"}, "SM occupancy": {"gpu1", "gpu2"}, "Pipe activity": {"gpu1", "gpu2"}, "Memory bandwidth in use": {"gpu1", "gpu2"},
	"Memory errors": {"gpu1", "gpu2", "gpu3", "gpu4"}, "Remapped rows": {"gpu1", "gpu4"}, "Memory banks by spare rows": {"gpu1", "gpu4"}, "Retired pages": {"gpu3"},
	"Utilisation by task": {"gpu0", "gpu1", "gpu3", "gpu4"}, "Busy time": {"gpu0", "gpu1", "gpu3", "gpu4"}, "Recovery action": {"gpu0", "gpu1", "gpu2", "gpu4"},
	"Pods holding this GPU": {"gpu0"}, "XIDs by number": {"gpu1", "gpu4"}, "Firing alerts of this GPU and its host": {"gpu1", "gpu4"},
	"Busy in this range": {"gpu0", "gpu1", "gpu3", "gpu4"}, "Memory by process": {"gpu0"}, "Utilisation by process": {"gpu0"},
}

// wantedOn are the GPUs on which the panel is not empty: all that can be chosen, but on the
// dashboard of one GPU those that have what the panel shows.
func (p *boardPanel) wantedOn(chosen []map[string]string) (gpus []string) {
	if want := gpusWith[p.title]; p.board == "gpu" && want != nil {
		return want
	}
	return shownOn(chosen, nil)
}

// shownOn are the GPUs on which a panel is not empty.
func shownOn(chosen, empty []map[string]string) (gpus []string) {
	for _, values := range chosen {
		if !slices.ContainsFunc(empty, func(e map[string]string) bool { return e["gpu"] == values["gpu"] }) {
			gpus = append(gpus, values["gpu"])
		}
	}
	return gpus
}

// TestEveryPanelAnswers runs every query of every dashboard, at a Prometheus and at a
// VictoriaMetrics to which the collector of a service writes that has each kind of GPU, and has
// worked and failed. No panel is empty then; on the dashboard of one GPU each panel shows
// something for each of them, but for those that lack what it shows (gpusWith).
func TestEveryPanelAnswers(t *testing.T) {
	besideFirst(t, working)
	panels, variables := grafanaPanels(t)
	lines := vmuiPanels(t)
	s := newShown(t)
	queried, explained := 0, 0
	check := func(name string, store stack.Store, panels []boardPanel) {
		chosen := map[string][]map[string]string{}
		empty := map[string][]map[string]string{}
		waiting := panels
		assert.Eventually(t, func() bool {
			waiting = slices.DeleteFunc(slices.Clone(waiting), func(p boardPanel) bool {
				chosen[p.board] = choices(t, store, variables[p.board])
				with, all := p.emptyWith(t, store, chosen[p.board])
				empty[p.String()] = with
				return all && slices.Equal(p.wantedOn(chosen[p.board]), shownOn(chosen[p.board], with))
			})
			return len(waiting) == 0
		}, 3*patience, 500*time.Millisecond, "%s: panels without an answer", name)
		queried += len(panels)
		for i := range panels {
			p := &panels[i]
			if !slices.ContainsFunc(waiting, func(w boardPanel) bool { return w.String() == p.String() }) {
				explained += len(empty[p.String()])
			}
			assert.Equal(t, p.wantedOn(chosen[p.board]), shownOn(chosen[p.board], empty[p.String()]), "%s: the GPUs on which %s is not empty", name, p)
		}
		for i := range waiting {
			assert.Fail(t, "a query has no answer", "%s: %s", name, &waiting[i])
		}
	}
	check("Prometheus", s.prometheus, panels)
	check("VictoriaMetrics", s.victoria, panels)
	check("vmui", s.victoria, lines)
	figure.Print("panels.queried", float64(queried), "panels")
	figure.Print("panels.empty_and_explained", float64(explained), "panels")
	assert.Positive(t, explained)
	s.alertsOfOneGPU(t, panels, variables)
	s.exemplars(t, panels, variables)
	s.links(t)
}
