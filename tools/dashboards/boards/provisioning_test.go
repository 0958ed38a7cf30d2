// SPDX-License-Identifier: Apache-2.0

package boards

import (
	"bytes"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

const root = "../../.."

// TestTheDocumentationListsEachDashboard compares docs/dashboards.md with the source.
func TestTheDocumentationListsEachDashboard(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(root, "docs", "dashboards.md"))
	require.NoError(t, err)
	docs := string(raw)
	for _, d := range All() {
		assert.Contains(t, docs, "| **"+d.Title+"** (`"+d.Name+".json`) |")
	}
	for _, p := range Pages() {
		assert.Contains(t, docs, "| **"+p.Title+"** (`"+p.Name+".json`) |")
		assert.Contains(t, docs, "images/vmui-"+p.Name+"-8.webp")
	}
}

// TestCapacityAnswersItsQuestions compares the questions that docs/dashboards.md promises to
// answer with the rows of the dashboard, in their order.
func TestCapacityAnswersItsQuestions(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(root, "docs", "dashboards.md"))
	require.NoError(t, err)
	d := capacity()
	line := regexp.MustCompile("(?m)^\\| \\*\\*" + d.Title + "\\*\\* .*\\| (.*) \\|$").FindSubmatch(raw)
	require.NotNil(t, line)
	var rows []string
	for _, row := range d.Rows {
		rows = append(rows, row.Title)
	}
	assert.Equal(t, regexp.MustCompile(`[^?]+\?`).FindAllString(strings.ReplaceAll(string(line[1]), "? ", "?"), -1), rows)
}

// TestProvisioningNamesWhatIsThere reads the provisioning files as Grafana does: each uid that a
// data source names is another's, and the dashboards' variables can be filled.
func TestProvisioningNamesWhatIsThere(t *testing.T) {
	var sources struct {
		APIVersion  int `yaml:"apiVersion"`
		Datasources []struct {
			Name, UID, Type, Access, URL string
			JSONData                     map[string]any `yaml:"jsonData"`
		}
	}
	decode(t, "datasources", &sources)
	assert.Equal(t, 1, sources.APIVersion)
	types, uids := map[string]bool{}, map[string]bool{}
	for _, s := range sources.Datasources {
		assert.NotEmpty(t, s.Name)
		assert.False(t, uids[s.UID], "two data sources are %s", s.UID)
		types[s.Type], uids[s.UID] = true, true
		u, err := url.Parse(s.URL)
		require.NoError(t, err)
		assert.Equal(t, "http", u.Scheme, s.Name)
	}
	named := 0
	for _, s := range sources.Datasources {
		raw, err := yaml.Marshal(s.JSONData)
		require.NoError(t, err)
		for _, m := range regexp.MustCompile(`datasourceUid: (\S+)`).FindAllStringSubmatch(string(raw), -1) {
			assert.True(t, uids[m[1]], "%s: there is no data source %s", s.Name, m[1])
			named++
		}
	}
	assert.Equal(t, 4, named)
	for _, d := range All() {
		for _, v := range d.Variables {
			kind := v.Name
			if kind == "datasource" {
				kind = "prometheus"
			}
			assert.True(t, v.Query != "" || types[kind], "%s: no data source for %s", d.Name, v.Name)
		}
	}
	var dashboards struct {
		APIVersion int `yaml:"apiVersion"`
		Providers  []struct {
			Name, Folder, Type string
			AllowUIUpdates     bool `yaml:"allowUiUpdates"`
			Options            struct{ Path string }
		}
	}
	decode(t, "dashboards", &dashboards)
	require.Len(t, dashboards.Providers, 1)
	assert.Equal(t, "file", dashboards.Providers[0].Type)
	docs, err := os.ReadFile(filepath.Join(root, "docs", "dashboards.md"))
	require.NoError(t, err)
	assert.Contains(t, string(docs), dashboards.Providers[0].Options.Path, "the documentation copies the dashboards there")
}

func decode(t *testing.T, folder string, into any) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(root, "deploy", "grafana", "provisioning", folder, "otelcol-gpu.yaml"))
	require.NoError(t, err)
	decoder := yaml.NewDecoder(bytes.NewReader(raw))
	decoder.KnownFields(true)
	require.NoError(t, decoder.Decode(into))
}
