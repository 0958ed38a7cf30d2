// SPDX-License-Identifier: Apache-2.0

// Package promuses lists the metrics and labels that rules, runbooks and dashboards name, and which of
// them a server does not have.
package promuses

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/otelcol-gpu/otelcol-gpu/tools/rules/mixin"
)

// Use is a metric that an expression names, with the labels that it must have.
type Use struct {
	Where  string   `json:"where"`
	Metric string   `json:"metric"`
	Labels []string `json:"labels,omitempty"`
	// Alternatives are other metrics, of which any may have a label instead.
	Alternatives []string `json:"alternatives,omitempty"`
}

// collector gathers the labels by metric while an expression is walked.
type collector struct {
	labels map[string]map[string]bool
	// Labels that the expression itself makes.
	made map[string]bool
	err  error
}

// Expression lists what an expression names, by metric: labels in its selectors, and those
// by which it is aggregated or matched.
func Expression(where, expr string) ([]Use, error) {
	parsed, err := parser.NewParser(parser.Options{}).ParseExpr(expr)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	c := &collector{labels: map[string]map[string]bool{}, made: map[string]bool{}}
	c.walk(parsed, nil)
	if c.err != nil {
		return nil, fmt.Errorf("%s: %w", where, c.err)
	}
	uses := make([]Use, 0, len(c.labels))
	for _, metric := range slices.Sorted(maps.Keys(c.labels)) {
		for label := range c.made {
			delete(c.labels[metric], label)
		}
		uses = append(uses, Use{Where: where, Metric: metric, Labels: slices.Sorted(maps.Keys(c.labels[metric]))})
	}
	return uses, nil
}

// walk adds the selectors below a node; wanted are the labels that the nodes above it
// group or match by.
func (c *collector) walk(node parser.Node, wanted []string) {
	switch n := node.(type) {
	case *parser.VectorSelector:
		c.selector(n, wanted)
		return
	case *parser.AggregateExpr:
		if text, ok := n.Param.(*parser.StringLiteral); ok && n.Op == parser.COUNT_VALUES {
			c.made[text.Val] = true
		}
		wanted = append(slices.Clone(wanted), n.Grouping...)
	case *parser.BinaryExpr:
		if n.VectorMatching != nil {
			// A label of ignoring() is on one side at least.
			if n.VectorMatching.On {
				wanted = append(slices.Clone(wanted), n.VectorMatching.MatchingLabels...)
			}
		}
	case *parser.Call:
		if text, ok := labelMade(n); ok {
			c.made[text] = true
		}
	}
	for child := range parser.ChildrenIter(node) {
		c.walk(child, wanted)
	}
}

// labelMade is the label that a call of label_replace or label_join sets.
func labelMade(call *parser.Call) (string, bool) {
	if call.Func.Name != "label_replace" && call.Func.Name != "label_join" {
		return "", false
	}
	text, ok := call.Args[1].(*parser.StringLiteral)
	if !ok {
		return "", false
	}
	return text.Val, true
}

func (c *collector) selector(s *parser.VectorSelector, wanted []string) {
	name := s.Name
	for _, m := range s.LabelMatchers {
		if m.Name == model.MetricNameLabel && m.Type == labels.MatchEqual {
			name = m.Value
		}
	}
	if name == "" {
		c.err = fmt.Errorf("%s names no metric", s)
		return
	}
	if c.labels[name] == nil {
		c.labels[name] = map[string]bool{}
	}
	for _, m := range s.LabelMatchers {
		if m.Name != model.MetricNameLabel {
			c.labels[name][m.Name] = true
		}
	}
	for _, label := range wanted {
		c.labels[name][label] = true
	}
}

// templateLabel is a label in the text of an annotation.
var templateLabel = regexp.MustCompile(`\$labels\.([a-zA-Z_][a-zA-Z0-9_]*)`)

// Rule lists what a rule names: its expression, and the labels in the texts of an alert,
// which one of the expression's metrics must have unless the expression makes them.
func Rule(where string, rule *mixin.Rule) ([]Use, error) {
	uses, err := Expression(where, rule.Expr)
	if err != nil || len(uses) == 0 {
		return uses, err
	}
	parsed, err := parser.NewParser(parser.Options{}).ParseExpr(rule.Expr)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	made := map[string]bool{}
	parser.Inspect(parsed, func(n parser.Node, _ []parser.Node) error {
		if call, ok := n.(*parser.Call); ok {
			if label, ok := labelMade(call); ok {
				made[label] = true
			}
		}
		return nil
	})
	found := map[string]bool{}
	for _, text := range rule.Annotations {
		for _, m := range templateLabel.FindAllStringSubmatch(text, -1) {
			if !made[m[1]] {
				found[m[1]] = true
			}
		}
	}
	if len(found) == 0 {
		return uses, nil
	}
	texts := Use{Where: where + " (annotations)", Metric: uses[0].Metric, Labels: slices.Sorted(maps.Keys(found))}
	for _, u := range uses[1:] {
		texts.Alternatives = append(texts.Alternatives, u.Metric)
	}
	return append(uses, texts), nil
}

// block is an expression of a runbook.
var block = regexp.MustCompile("(?ms)^```promql\n(.*?)^```$")

// Text lists what the expressions of a page name. Expressions are separated by blank lines.
func Text(where, page string) (uses []Use, err error) {
	for _, m := range block.FindAllStringSubmatch(page, -1) {
		for expr := range strings.SplitSeq(strings.TrimSpace(m[1]), "\n\n") {
			found, err := Expression(where, expr)
			if err != nil {
				return nil, err
			}
			uses = append(uses, found...)
		}
	}
	return uses, nil
}

// Repository lists what the rule files, runbooks and dashboards of the repository name. What the rules
// record themselves, and the names of other exporters in article.yaml, are left out.
func Repository(root string) (uses []Use, err error) {
	recorded := map[string]bool{}
	files, err := filepath.Glob(filepath.Join(root, mixin.RulesDir, "*.yaml"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		if filepath.Base(file) == "article.yaml" {
			continue
		}
		groups, err := mixin.Read(file)
		if err != nil {
			return nil, err
		}
		for _, rule := range groups.All() {
			recorded[rule.Record] = true
			found, err := Rule(filepath.Base(file)+": "+rule.Alert+rule.Record, &rule)
			if err != nil {
				return nil, err
			}
			uses = append(uses, found...)
		}
	}
	pages, err := filepath.Glob(filepath.Join(root, "docs", "runbooks", "*.md"))
	if err != nil {
		return nil, err
	}
	for _, page := range pages {
		raw, err := os.ReadFile(page)
		if err != nil {
			return nil, err
		}
		found, err := Text("docs/runbooks/"+filepath.Base(page), string(raw))
		if err != nil {
			return nil, err
		}
		uses = append(uses, found...)
	}
	found, err := dashboards(root)
	if err != nil {
		return nil, err
	}
	uses = append(uses, found...)
	return slices.DeleteFunc(uses, func(u Use) bool { return recorded[u.Metric] || u.Metric == "ALERTS" }), nil
}
