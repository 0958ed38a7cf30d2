// SPDX-License-Identifier: Apache-2.0

// Command rules renders the mixin of alerts and recording rules, and checks that each alert
// has its tests and its runbook. `make generate` and `make rules-test` run it.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/otelcol-gpu/otelcol-gpu/tools/rules/mixin"
	"github.com/otelcol-gpu/otelcol-gpu/tools/rules/promuses"
)

const usage = `usage: rules render|check|uses ROOT
  render  writes deploy/prometheus/rules/alerts.yaml
  check   checks tests and runbooks of each alert, and prints how many alerts are tested
  uses    prints the metrics and labels that rules and runbooks name, as JSON`

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "rules:", err)
		os.Exit(1)
	}
}

func run(command, root string) error {
	switch command {
	case "render":
		return render(root)
	case "check":
		tested, faults, err := check(root)
		if err := errors.Join(append(faults, err)...); err != nil {
			return err
		}
		fmt.Printf("figure alerts.tested %d alerts\n", tested)
		return nil
	case "uses":
		uses, err := promuses.Repository(root)
		if err != nil {
			return err
		}
		encoder := json.NewEncoder(os.Stdout)
		encoder.SetIndent("", " ")
		return encoder.Encode(uses)
	}
	return errors.New(usage)
}

func render(root string) error {
	alerts, err := mixin.Evaluate(root, "prometheusAlerts", "{}")
	if err != nil {
		return err
	}
	files, err := mixin.Files(root, alerts)
	if err != nil {
		return err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(root, name), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}
