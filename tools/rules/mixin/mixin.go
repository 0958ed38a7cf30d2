// SPDX-License-Identifier: Apache-2.0

// Package mixin renders the mixin under deploy/prometheus/mixin to rule files, and reads
// rule files.
package mixin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/go-jsonnet"
	"go.yaml.in/yaml/v3"
)

// Where things are, from the repository's root.
const (
	Dir      = "deploy/prometheus/mixin"
	RulesDir = "deploy/prometheus/rules"
	TestsDir = "deploy/prometheus/tests/alerts"
)

// Groups is a rule file.
type Groups struct {
	Groups []Group `json:"groups" yaml:"groups"`
}

// Group is rules that are evaluated one after another.
type Group struct {
	Name     string `json:"name" yaml:"name"`
	Interval string `json:"interval,omitempty" yaml:"interval,omitempty"`
	Rules    []Rule `json:"rules" yaml:"rules"`
}

// Rule is a recording rule or an alert.
type Rule struct {
	Record        string            `json:"record,omitempty" yaml:"record,omitempty"`
	Alert         string            `json:"alert,omitempty" yaml:"alert,omitempty"`
	Expr          string            `json:"expr" yaml:"expr"`
	For           string            `json:"for,omitempty" yaml:"for,omitempty"`
	KeepFiringFor string            `json:"keep_firing_for,omitempty" yaml:"keep_firing_for,omitempty"`
	Labels        map[string]string `json:"labels,omitempty" yaml:"labels,omitempty"`
	Annotations   map[string]string `json:"annotations,omitempty" yaml:"annotations,omitempty"`
}

// All lists the rules of all groups.
func (g *Groups) All() (rules []Rule) {
	for _, group := range g.Groups {
		rules = append(rules, group.Rules...)
	}
	return rules
}

// evaluateText evaluates a field of the mixin with a configuration that is merged over its own.
func evaluateText(root, field, config string) (string, error) {
	vm := jsonnet.MakeVM()
	vm.Importer(&jsonnet.FileImporter{JPaths: []string{filepath.Join(root, Dir)}})
	out, err := vm.EvaluateAnonymousSnippet("rules", fmt.Sprintf(
		"((import 'mixin.libsonnet') + { _config+:: %s }).%s", config, field))
	if err != nil {
		return "", fmt.Errorf("evaluate the mixin: %w", err)
	}
	return out, nil
}

// Evaluate evaluates a field of the mixin, prometheusAlerts or prometheusRules, with a
// configuration that is merged over the mixin's own, as Jsonnet.
func Evaluate(root, field, config string) (*Groups, error) {
	out, err := evaluateText(root, field, config)
	if err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(bytes.NewReader([]byte(out)))
	decoder.DisallowUnknownFields()
	groups := &Groups{}
	if err := decoder.Decode(groups); err != nil {
		return nil, fmt.Errorf("decode %s of the mixin: %w", field, err)
	}
	return groups, nil
}

// Read reads a rule file.
func Read(path string) (*Groups, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	decoder := yaml.NewDecoder(bytes.NewReader(raw))
	decoder.KnownFields(true)
	groups := &Groups{}
	if err := decoder.Decode(groups); err != nil {
		return nil, fmt.Errorf("decode %s: %w", path, err)
	}
	return groups, nil
}

const header = `# Alerts of GPUs, of the collector and of ComfyUI, for Prometheus and vmalert. Written by
# ` + "`make generate`" + ` from the mixin in ../mixin, which has the settings; do not edit.
# docs/runbooks has a page for each.
`

// Files are the files that are made from the mixin's alerts, or for the mixin, by their
// path from the repository's root.
func Files(root string, alerts *Groups) (map[string][]byte, error) {
	text, err := YAML(alerts)
	if err != nil {
		return nil, err
	}
	// Jsonnet finds files in the mixin's own folder only, where others vendor it.
	history, err := os.ReadFile(filepath.Join(root, RulesDir, "history.yaml"))
	if err != nil {
		return nil, err
	}
	return map[string][]byte{
		filepath.Join(RulesDir, "alerts.yaml"):      append([]byte(header), text...),
		filepath.Join(Dir, "rules", "history.yaml"): history,
	}, nil
}

// YAML is a rule file's text.
func YAML(groups *Groups) ([]byte, error) {
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	err := errors.Join(encoder.Encode(groups), encoder.Close())
	return out.Bytes(), err
}
