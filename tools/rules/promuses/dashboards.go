// SPDX-License-Identifier: Apache-2.0

package promuses

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// grafanaIntervals stand for Grafana's own variables, without which an expression does not parse.
var grafanaIntervals = strings.NewReplacer("$__rate_interval", "5m", "$__range_s", "3600", "$__range", "1h")

// legendLabel is a label in the legend of a query.
var legendLabel = regexp.MustCompile(`\{\{(\w+)\}\}`)

// dashboards lists what the queries and legends of Grafana's dashboards name. Those of vmui are
// made of the same queries.
func dashboards(root string) (uses []Use, err error) {
	files, err := filepath.Glob(filepath.Join(root, "deploy", "grafana", "dashboards", "*.json"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		found, err := Dashboard(filepath.Base(file), raw)
		if err != nil {
			return nil, err
		}
		uses = append(uses, found...)
	}
	return uses, nil
}

// Dashboard lists what the queries of a dashboard of Grafana name, and their legends: one of a
// query's metrics must have a label of its legend.
func Dashboard(name string, raw []byte) (uses []Use, err error) {
	var d struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr, LegendFormat string }
		}
	}
	if err := json.Unmarshal(raw, &d); err != nil {
		return nil, fmt.Errorf("decode %s: %w", name, err)
	}
	for _, panel := range d.Panels {
		for _, target := range panel.Targets {
			where := name + ": " + panel.Title
			found, err := Expression(where, grafanaIntervals.Replace(target.Expr))
			if err != nil {
				return nil, err
			}
			uses = append(uses, found...)
			if labels := legendLabel.FindAllStringSubmatch(target.LegendFormat, -1); len(labels) > 0 && len(found) > 0 {
				legend := Use{Where: where + " (legend)", Metric: found[0].Metric}
				for _, m := range labels {
					legend.Labels = append(legend.Labels, m[1])
				}
				for _, other := range found[1:] {
					legend.Alternatives = append(legend.Alternatives, other.Metric)
				}
				uses = append(uses, legend)
			}
		}
	}
	return uses, nil
}
