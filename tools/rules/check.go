// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/otelcol-gpu/otelcol-gpu/tools/rules/mixin"
	"github.com/otelcol-gpu/otelcol-gpu/tools/rules/promuses"
)

// watchdog always fires, so that there is no test in which it is silent.
const watchdog = "Watchdog"

// testFile is a file of alert tests, as promtool and vmalert-tool read it.
type testFile struct {
	Tests []struct {
		InputSeries []struct {
			Series string `yaml:"series"`
			Values string `yaml:"values"`
		} `yaml:"input_series"`
		AlertRuleTest []struct {
			Alertname string `yaml:"alertname"`
			ExpAlerts []struct {
				Labels map[string]string `yaml:"exp_labels"`
			} `yaml:"exp_alerts"`
		} `yaml:"alert_rule_test"`
	} `yaml:"tests"`
}

// tested is what the tests show of an alert: the variants that fire, and the metrics that
// were there when it was silent.
type tested struct {
	fires  map[string]bool
	silent []map[string]bool
}

// variant distinguishes rules with the same name by their own labels.
func variant(labels map[string]string) string {
	return strings.TrimSuffix(labels["severity"]+" "+labels["metrics"], " ")
}

// check checks that the rendered files are those of the mixin, and that each alert has a
// test in which it fires, one in which it is silent, and a runbook. It returns the number
// of alerts with their tests.
func check(root string) (alerts int, faults []error, err error) {
	groups, err := mixin.Evaluate(root, "prometheusAlerts", "{}")
	if err != nil {
		return 0, nil, err
	}
	files, err := mixin.Files(root, groups)
	if err != nil {
		return 0, nil, err
	}
	for name, want := range files {
		if got, err := os.ReadFile(filepath.Join(root, name)); err != nil || !bytes.Equal(got, want) {
			faults = append(faults, fmt.Errorf("%s is not what the mixin renders; run make generate", name))
		}
	}
	tests, err := readTests(root)
	if err != nil {
		return 0, nil, err
	}
	names := map[string]bool{}
	for _, rule := range groups.All() {
		faults = append(faults, annotationFaults(&rule)...)
		faults = append(faults, runbookFaults(root, &rule)...)
		faults = append(faults, testFaults(&rule, tests[rule.Alert])...)
		names[rule.Alert] = true
	}
	faults = append(faults, strayRunbooks(root, names)...)
	article, err := mixin.Read(filepath.Join(root, mixin.RulesDir, "article.yaml"))
	if err != nil {
		return 0, nil, err
	}
	for _, rule := range article.All() {
		faults = append(faults, testFaults(&rule, tests[rule.Alert])...)
		if page := path.Base(rule.Annotations["runbook_url"]); !names[strings.TrimSuffix(page, ".md")] {
			faults = append(faults, fmt.Errorf("article.yaml: the runbook %q of %s does not exist", page, rule.Alert))
		}
	}
	return len(names), faults, nil
}

func readTests(root string) (map[string]*tested, error) {
	paths, err := filepath.Glob(filepath.Join(root, mixin.TestsDir, "*.yaml"))
	if err != nil {
		return nil, err
	}
	all := map[string]*tested{}
	for _, name := range paths {
		raw, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		var file testFile
		if err := yaml.Unmarshal(raw, &file); err != nil {
			return nil, fmt.Errorf("decode %s: %w", name, err)
		}
		for _, test := range file.Tests {
			metrics := map[string]bool{}
			for _, s := range test.InputSeries {
				name, _, _ := strings.Cut(s.Series, "{")
				metrics[name] = true
			}
			for _, a := range test.AlertRuleTest {
				t := all[a.Alertname]
				if t == nil {
					t = &tested{fires: map[string]bool{}}
					all[a.Alertname] = t
				}
				for _, e := range a.ExpAlerts {
					t.fires[variant(e.Labels)] = true
				}
				if len(a.ExpAlerts) == 0 {
					t.silent = append(t.silent, metrics)
				}
			}
		}
	}
	return all, nil
}

// annotationFaults lists what an alert itself lacks.
func annotationFaults(rule *mixin.Rule) (faults []error) {
	fault := func(format string, arguments ...any) {
		faults = append(faults, fmt.Errorf("%s: "+format, append([]any{rule.Alert}, arguments...)...))
	}
	for _, key := range []string{"summary", "action", "runbook_url"} {
		if strings.TrimSpace(rule.Annotations[key]) == "" {
			fault("it has no %s", key)
		}
	}
	if severity := rule.Labels["severity"]; !slices.Contains([]string{"critical", "warning", "info", "none"}, severity) {
		fault("%q is not a valid severity", severity)
	}
	if rule.For == "" {
		fault("it has no for")
	}
	if rule.Alert != watchdog && !strings.Contains(rule.Annotations["summary"], "$labels.instance") {
		fault("its summary does not name the host")
	}
	// hw_gpu_count is of a host, all others are of a GPU.
	ofGPU := strings.Contains(strings.ReplaceAll(rule.Expr, "hw_gpu_count", ""), "hw_")
	if ofGPU && !strings.Contains(rule.Annotations["summary"], "$labels.hw_name") {
		fault("its summary does not name the GPU")
	}
	return faults
}

// testFaults lists the tests that a rule lacks.
func testFaults(rule *mixin.Rule, tests *tested) (faults []error) {
	if tests == nil {
		tests = &tested{}
	}
	if !tests.fires[variant(rule.Labels)] {
		faults = append(faults, fmt.Errorf("%s: there is no test in which it fires (%s)", rule.Alert, variant(rule.Labels)))
	}
	uses, err := promuses.Expression(rule.Alert, rule.Expr)
	if err != nil {
		return append(faults, err)
	}
	silent := slices.ContainsFunc(tests.silent, func(metrics map[string]bool) bool {
		return !slices.ContainsFunc(uses, func(u promuses.Use) bool { return !metrics[u.Metric] })
	})
	if rule.Alert != watchdog && !silent {
		faults = append(faults, fmt.Errorf("%s: there is no test in which it is silent with all its metrics there", rule.Alert))
	}
	return faults
}

// parts are the headings of a runbook, in order.
var parts = []string{"Meaning", "What to look at", "What to do", "How to silence", "False alarms"}

// part is a heading of a runbook and the text below it.
var part = regexp.MustCompile(`(?m)^## (.*)\n`)

func runbookFaults(root string, rule *mixin.Rule) (faults []error) {
	page := path.Join("docs", "runbooks", rule.Alert+".md")
	if !strings.HasSuffix(rule.Annotations["runbook_url"], "/"+page) {
		faults = append(faults, fmt.Errorf("%s: its runbook_url does not lead to %s", rule.Alert, page))
	}
	raw, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(page)))
	if err != nil {
		return append(faults, fmt.Errorf("%s: it has no runbook: %w", rule.Alert, err))
	}
	for _, problem := range pageFaults(rule.Alert, string(raw)) {
		faults = append(faults, fmt.Errorf("%s: %w", page, problem))
	}
	return faults
}

// pageFaults lists what the runbook of an alert lacks: the title, one of the five parts, or
// an expression to look at.
func pageFaults(alert, text string) (faults []error) {
	if !strings.HasPrefix(text, "# "+alert+"\n") {
		faults = append(faults, errors.New("its title is not the alert's name"))
	}
	at := part.FindAllStringSubmatchIndex(text, -1)
	headings := make([]string, 0, len(at))
	for i, m := range at {
		end := len(text)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		heading, body := text[m[2]:m[3]], strings.TrimSpace(text[m[1]:end])
		headings = append(headings, heading)
		if body == "" {
			faults = append(faults, fmt.Errorf("%q is empty", heading))
		}
		if heading == parts[1] && alert != watchdog && !strings.Contains(body, "```promql\n") {
			faults = append(faults, fmt.Errorf("%q has no expression", heading))
		}
	}
	if !slices.Equal(headings, parts) {
		faults = append(faults, fmt.Errorf("its parts are %q, not %q", headings, parts))
	}
	return faults
}

// strayRunbooks are pages of alerts that do not exist.
func strayRunbooks(root string, names map[string]bool) (faults []error) {
	pages, err := filepath.Glob(filepath.Join(root, "docs", "runbooks", "*.md"))
	if err != nil {
		return []error{err}
	}
	known := maps.Clone(names)
	known["README"] = true
	for _, page := range pages {
		if name := strings.TrimSuffix(filepath.Base(page), ".md"); !known[name] {
			faults = append(faults, fmt.Errorf("docs/runbooks/%s.md is the page of no alert", name))
		}
	}
	return faults
}
