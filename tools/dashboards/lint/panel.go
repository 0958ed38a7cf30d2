// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// The intervals that stand for Grafana's own while an expression is parsed.
const (
	rateInterval = 4321 * time.Second
	wholeRange   = 98765 * time.Second
)

var intervals = strings.NewReplacer("$__rate_interval", "4321s", "$__range_s", "98765", "$__range", "98765s")

// Parse parses a panel's expression with Grafana's own variables replaced.
func Parse(expr string) (parser.Expr, error) {
	return parser.NewParser(parser.Options{}).ParseExpr(intervals.Replace(expr))
}

func (p *grafanaPanel) faults(variables map[string]string, used map[string]bool) (faults []error) {
	fault := func(format string, arguments ...any) { faults = append(faults, fmt.Errorf(format, arguments...)) }
	if strings.TrimSpace(p.Description) == "" {
		fault("it has no description")
	}
	if p.FieldConfig.Defaults.Unit == "" {
		fault("it has no unit")
	}
	if none := strings.TrimSpace(p.FieldConfig.Defaults.NoValue); none == "" || strings.EqualFold(none, "no data") {
		fault("it does not say why it can be empty (noValue)")
	}
	if p.Datasource == nil || !isVariable(p.Datasource, variables, "prometheus", used) {
		fault("its data source is not a variable of the dashboard")
	}
	if len(p.Targets) == 0 {
		fault("it has no query")
	}
	for i := range p.Targets {
		t := &p.Targets[i]
		if t.Datasource == nil || !isVariable(t.Datasource, variables, "prometheus", used) {
			fault("%s: its data source is not a variable of the dashboard", t.RefID)
		}
		if t.Instant == t.Range {
			fault("%s: it is not either of a moment or of a range", t.RefID)
		}
		if p.Type == "timeseries" && t.LegendFormat == "" {
			fault("%s: it has no legend", t.RefID)
		}
		if unknown := use(t.Expr, variables, used); len(unknown) > 0 {
			fault("%s: the dashboard has no variable %s", t.RefID, strings.Join(unknown, ", "))
		}
		if t.Exemplar && !strings.Contains(t.Expr, "_bucket{") {
			fault("%s: exemplars are those of buckets", t.RefID)
		}
		for _, f := range t.faults(variables) {
			fault("%s: %w", t.RefID, f)
		}
	}
	return faults
}

// counted are the functions that need an interval with at least two samples.
var counted = map[string]bool{"rate": true, "irate": true, "increase": true, "delta": true, "idelta": true, "deriv": true}

// faults checks the expression of a query.
func (t *target) faults(variables map[string]string) (faults []error) {
	expr, err := Parse(t.Expr)
	if err != nil {
		return []error{err}
	}
	parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
		switch n := n.(type) {
		case *parser.Call:
			if len(n.Args) == 0 {
				return nil
			}
			m, ok := n.Args[0].(*parser.MatrixSelector)
			if !ok {
				return nil
			}
			switch {
			case m.Range == wholeRange && t.Instant:
			case m.Range == rateInterval && counted[n.Func.Name]:
			case counted[n.Func.Name]:
				faults = append(faults, fmt.Errorf("%s is not over $__rate_interval, nor a moment's over $__range", n))
			default:
				faults = append(faults, fmt.Errorf("%s is not a moment's over $__range", n))
			}
		case *parser.VectorSelector:
			faults = append(faults, selectorFaults(n, variables)...)
		}
		return nil
	})
	return faults
}

// wanted are the matchers that a selector needs: for those variables of the dashboard whose
// label the metric has.
func wanted(metric string, variables map[string]string) map[string]string {
	all := map[string]string{}
	add := func(label, variable, text string) {
		if _, ok := variables[variable]; ok {
			all[label] = text
		}
	}
	switch {
	case metric == "ALERTS":
		add("instance", "host", "$host")
		add("instance", "server", "$server")
	case metric == "hw_gpu_count" || strings.HasPrefix(metric, "otelcol_"):
		add("instance", "host", "$host")
	case strings.HasPrefix(metric, "hw_") || metric == "gpu:idle:ratio1h":
		add("instance", "host", "$host")
		add("hw_name", "gpu", "$gpu(/.*)?") // with its fans and MIG devices
	case strings.HasPrefix(metric, "comfyui_"):
		add("instance", "server", "$server")
	}
	return all // what else is recorded is of the whole service
}

func selectorFaults(s *parser.VectorSelector, variables map[string]string) (faults []error) {
	if s.Name == "" {
		return []error{fmt.Errorf("%s names no metric", s)}
	}
	for label, text := range wanted(s.Name, variables) {
		found := false
		for _, m := range s.LabelMatchers {
			found = found || m.Name == label && m.Type == labels.MatchRegexp && m.Value == text
		}
		if !found {
			faults = append(faults, fmt.Errorf("%s lacks the matcher %s=~%q", s, label, text))
		}
	}
	return faults
}

// links are the addresses of a panel's links.
func (p *grafanaPanel) links() (all []string, err error) {
	for _, l := range p.FieldConfig.Defaults.Links {
		all = append(all, l.URL)
	}
	for _, o := range p.FieldConfig.Overrides {
		for _, property := range o.Properties {
			if property.ID != "links" {
				continue
			}
			var links []struct{ URL string }
			if err := json.Unmarshal(property.Value, &links); err != nil {
				return nil, err
			}
			for _, l := range links {
				all = append(all, l.URL)
			}
		}
	}
	return all, nil
}

// linkFaults checks where a panel's links lead: to a dashboard that exists, to Explore with a
// query that can be read, or to a folder of runbooks.
func (p *grafanaPanel) linkFaults(uids map[string]bool, runbooks string, variables map[string]string, used map[string]bool) (faults []error) {
	links, err := p.links()
	if err != nil {
		return []error{err}
	}
	for _, link := range links {
		if err := linkFault(link, uids, runbooks, variables, used); err != nil {
			faults = append(faults, fmt.Errorf("the link %s: %w", link, err))
		}
	}
	return faults
}

func linkFault(link string, uids map[string]bool, runbooks string, variables map[string]string, used map[string]bool) error {
	if uid, ok := strings.CutPrefix(link, "/d/"); ok {
		uid, _, _ = strings.Cut(uid, "?")
		if !uids[uid] {
			return errors.New("there is no dashboard with this uid")
		}
		return nil
	}
	if _, rest, ok := strings.Cut(link, "/docs/runbooks/"); ok {
		if rest != "${__value.raw}.md" {
			return errors.New("it does not lead to the runbook of the alert")
		}
		_, err := os.Stat(filepath.Join(runbooks, "GPULost.md"))
		return err
	}
	if !strings.HasPrefix(link, "/explore?") {
		return errors.New("it leads nowhere")
	}
	if unknown := use(link, variables, used); len(unknown) > 0 {
		return fmt.Errorf("the dashboard has no variable %s", strings.Join(unknown, ", "))
	}
	u, err := url.Parse(link)
	if err != nil {
		return err
	}
	var panes map[string]struct {
		Datasource string
		Queries    []struct{ Datasource *dataSource }
	}
	if err := json.Unmarshal([]byte(u.Query().Get("panes")), &panes); err != nil {
		return err
	}
	queries := 0
	for _, pane := range panes {
		queries += len(pane.Queries)
		for _, query := range pane.Queries {
			if query.Datasource == nil || query.Datasource.UID != pane.Datasource || !isVariable(query.Datasource, variables, query.Datasource.Type, used) {
				return errors.New("its data source is not a variable of the dashboard")
			}
		}
	}
	if queries == 0 {
		return errors.New("it has no query")
	}
	return nil
}
