// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
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

// tested is what the tests show of an alert: the severities with which it fires, and the
// metrics that were there when it was silent.
type tested struct {
	fires  map[string]bool
	silent []map[string]bool
}

// check checks that the rendered files are those of the mixin, and that each alert has a
// test in which it fires, one in which it is silent, and a runbook. It returns the number
// of alerts with their tests.
func check(root string) (alerts int, faults []error, err error) {
	files, err := mixin.Files(root)
	if err != nil {
		return 0, nil, err
	}
	for name, want := range files {
		if got, err := os.ReadFile(filepath.Join(root, name)); err != nil || !bytes.Equal(got, want) {
			faults = append(faults, fmt.Errorf("%s is not what the mixin renders; run make generate", name))
		}
	}
	groups, err := mixin.Evaluate(root, "prometheusAlerts", "{}")
	if err != nil {
		return 0, nil, err
	}
	tests, err := readTests(root)
	if err != nil {
		return 0, nil, err
	}
	names := map[string]bool{}
	for _, rule := range groups.All() {
		of, err := faultsOf(root, &rule, tests[rule.Alert])
		if err != nil {
			return 0, nil, err
		}
		faults = append(faults, of...)
		names[rule.Alert] = true
	}
	return len(names), append(faults, strayRunbooks(root, names)...), nil
}

func readTests(root string) (map[string]*tested, error) {
	paths, err := filepath.Glob(filepath.Join(root, mixin.TestsDir, "*.yaml"))
	if err != nil {
		return nil, err
	}
	all := map[string]*tested{}
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		var file testFile
		if err := yaml.Unmarshal(raw, &file); err != nil {
			return nil, fmt.Errorf("decode %s: %w", path, err)
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
					t.fires[e.Labels["severity"]] = true
				}
				if len(a.ExpAlerts) == 0 {
					t.silent = append(t.silent, metrics)
				}
			}
		}
	}
	return all, nil
}

// faultsOf lists what an alert lacks.
func faultsOf(root string, rule *mixin.Rule, tests *tested) (faults []error, err error) {
	fault := func(format string, arguments ...any) {
		faults = append(faults, fmt.Errorf("%s: "+format, append([]any{rule.Alert}, arguments...)...))
	}
	for _, key := range []string{"summary", "action", "runbook_url"} {
		if strings.TrimSpace(rule.Annotations[key]) == "" {
			fault("it has no %s", key)
		}
	}
	severity := rule.Labels["severity"]
	if !slices.Contains([]string{"critical", "warning", "info", "none"}, severity) {
		fault("%q is not a valid severity", severity)
	}
	if rule.For == "" {
		fault("it has no for")
	}
	if rule.Alert != watchdog && !strings.Contains(rule.Annotations["summary"], "$labels.instance") {
		fault("its summary does not name the host")
	}
	if strings.Contains(rule.Expr, "hw_gpu_") && rule.Alert != "GPUTelemetryMissing" && !strings.Contains(rule.Annotations["summary"], "$labels.hw_name") {
		fault("its summary does not name the GPU")
	}
	if tests == nil {
		tests = &tested{}
	}
	if !tests.fires[severity] {
		fault("there is no test in which it fires with severity %s", severity)
	}
	uses, err := promuses.Expression(rule.Alert, rule.Expr)
	if err != nil {
		return nil, err
	}
	silent := slices.ContainsFunc(tests.silent, func(metrics map[string]bool) bool {
		return !slices.ContainsFunc(uses, func(u promuses.Use) bool { return !metrics[u.Metric] })
	})
	if rule.Alert != watchdog && !silent {
		fault("there is no test in which it is silent with all its metrics there")
	}
	return append(faults, runbookFaults(root, rule)...), nil
}

// parts are the headings of a runbook, in order.
var parts = []string{"Meaning", "What to look at", "What to do", "How to silence", "False alarms"}

// part is a heading of a runbook and the text below it.
var part = regexp.MustCompile(`(?m)^## (.*)\n`)

func runbookFaults(root string, rule *mixin.Rule) (faults []error) {
	path := filepath.Join("docs", "runbooks", rule.Alert+".md")
	if !strings.HasSuffix(rule.Annotations["runbook_url"], "/"+filepath.ToSlash(path)) {
		faults = append(faults, fmt.Errorf("%s: its runbook_url does not lead to %s", rule.Alert, path))
	}
	raw, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		return append(faults, fmt.Errorf("%s: it has no runbook: %w", rule.Alert, err))
	}
	for _, problem := range pageFaults(rule.Alert, string(raw)) {
		faults = append(faults, fmt.Errorf("%s: %w", path, problem))
	}
	return faults
}

// pageFaults lists what the runbook of an alert lacks: the title, one of the five parts, or
// an expression to look at.
func pageFaults(alert, page string) (faults []error) {
	if !strings.HasPrefix(page, "# "+alert+"\n") {
		faults = append(faults, errors.New("its title is not the alert's name"))
	}
	var headings []string
	at := part.FindAllStringSubmatchIndex(page, -1)
	for i, m := range at {
		end := len(page)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		heading, text := page[m[2]:m[3]], strings.TrimSpace(page[m[1]:end])
		headings = append(headings, heading)
		if text == "" {
			faults = append(faults, fmt.Errorf("%q is empty", heading))
		}
		if heading == parts[1] && alert != watchdog && !strings.Contains(text, "```promql\n") {
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
