// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// tagOf is the tag for which a link searches.
var tagOf = regexp.MustCompile(`^([\w.]+)="\$\{__field\.labels\.(\w+)\}"$`)

// links follows the links to traces from each panel of the dashboard of ComfyUI: Jaeger finds
// some with the attribute that is the label of a series.
func (s *shown) links(t *testing.T) {
	t.Helper()
	var d struct {
		Panels []struct {
			Title       string
			FieldConfig struct {
				Defaults struct{ Links []struct{ Title, URL string } }
			}
		}
	}
	require.NoError(t, json.Unmarshal(boardFiles(t, "deploy/grafana/dashboards")["comfyui"], &d))
	values := map[string]string{"comfyui_task_class": "people", "comfyui_model": largeCheckpoint}
	followed := 0
	for _, p := range d.Panels {
		for _, link := range p.FieldConfig.Defaults.Links {
			if !strings.HasSuffix(link.Title, "in Jaeger") {
				continue
			}
			u, err := url.Parse(link.URL)
			require.NoError(t, err)
			var panes map[string]struct {
				Queries []struct{ Service, Operation, Tags string }
			}
			require.NoError(t, json.Unmarshal([]byte(u.Query().Get("panes")), &panes))
			query := panes["traces"].Queries[0]
			m := tagOf.FindStringSubmatch(query.Tags)
			require.NotNil(t, m, query.Tags)
			require.NotEmpty(t, values[m[2]], m[2])
			tags, err := json.Marshal(map[string]string{m[1]: values[m[2]]})
			require.NoError(t, err)
			path := "/api/traces?" + url.Values{"service": {query.Service}, "operation": {query.Operation}, "tags": {string(tags)}, "limit": {"5"}, "lookback": {"1h"}}.Encode()
			require.Eventually(t, func() bool { return len(s.jaeger.traces(path)) > 0 }, patience, 100*time.Millisecond, "%s: %s", p.Title, path)
			followed++
		}
	}
	assert.GreaterOrEqual(t, followed, 6)
}

// alertsOfOneGPU reads the firing alerts on the dashboard of one GPU: those of the GPU and those
// of the host are there, and those of other GPUs are not.
func (s *shown) alertsOfOneGPU(t *testing.T, panels []boardPanel, variables map[string][]boardVariable) {
	t.Helper()
	at := slices.IndexFunc(panels, func(p boardPanel) bool {
		return p.board == "gpu" && p.title == "Firing alerts of this GPU and its host"
	})
	require.GreaterOrEqual(t, at, 0)
	for _, values := range choices(t, s.prometheus, variables["gpu"]) {
		alerts, err := s.prometheus.Query(t.Context(), replaceVariables(panels[at].targets[0].Expr, values))
		require.NoError(t, err)
		own := false
		for _, a := range alerts {
			own = own || a.Labels["hw_name"] == values["gpu"]
			assert.Contains(t, []string{values["gpu"], ""}, a.Labels["hw_name"], "%s on the dashboard of %s", a.Labels["alertname"], values["gpu"])
		}
		assert.Equal(t, values["gpu"] == "gpu1" || values["gpu"] == "gpu4", own, "%s, of which 1 and 4 have XIDs: %v", values["gpu"], alerts)
	}
}
