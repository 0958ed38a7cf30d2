// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
)

// ruleFile is a file of rules, of which each is kept as it is.
type ruleFile struct {
	Groups []ruleGroup `yaml:"groups"`
}

type ruleGroup struct {
	Rules  []map[string]any `yaml:"rules"`
	Others map[string]any   `yaml:",inline"`
}

// narrow copies each file of alert tests into a folder of its own below folder, with the rules that it
// names beside it: promtool and vmalert-tool evaluate every rule of a file at every step of every test,
// which takes ten times as long. Recording rules and rule files without alerts are copied whole.
func narrow(root, folder string) error {
	tests, err := filepath.Glob(filepath.Join(root, "deploy/prometheus/tests/alerts/*.yaml"))
	if err != nil {
		return err
	}
	if len(tests) == 0 {
		return fmt.Errorf("no tests of alerts below %s", root)
	}
	paths, err := filepath.Glob(filepath.Join(root, "deploy/prometheus/rules/*.yaml"))
	if err != nil {
		return err
	}
	rules := map[string]*ruleFile{} // by the file's name
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		all := &ruleFile{}
		if err := yaml.Unmarshal(text, all); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		rules[filepath.Base(path)] = all
	}
	for _, path := range tests {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		own := filepath.Join(folder, strings.TrimSuffix(filepath.Base(path), ".yaml"))
		// The test names its rules by their path from its own folder.
		if err := write(filepath.Join(own, "tests", "alerts", filepath.Base(path)), text); err != nil {
			return err
		}
		for name, all := range rules {
			named, err := yaml.Marshal(all.namedIn(string(text)))
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if err := write(filepath.Join(own, "rules", name), named); err != nil {
				return err
			}
		}
	}
	return nil
}

func write(path string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o644)
}

// namedIn is the file without the alerts whose names a text does not hold.
func (f *ruleFile) namedIn(text string) (named ruleFile) {
	for _, g := range f.Groups {
		kept := ruleGroup{Others: g.Others}
		for _, rule := range g.Rules {
			if alert, _ := rule["alert"].(string); alert == "" || strings.Contains(text, alert) {
				kept.Rules = append(kept.Rules, rule)
			}
		}
		if len(kept.Rules) > 0 {
			named.Groups = append(named.Groups, kept)
		}
	}
	return named
}
