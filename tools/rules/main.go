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
	"strconv"
	"strings"

	"github.com/otelcol-gpu/otelcol-gpu/tools/rules/mixin"
	"github.com/otelcol-gpu/otelcol-gpu/tools/rules/promuses"
)

const usage = `usage: rules render|check|uses ROOT
       rules narrow ROOT FOLDER
       rules shorten ROOT FACTOR [SETTINGS]
  render   writes deploy/prometheus/rules/alerts.yaml
  check    checks tests and runbooks of each alert, and prints how many alerts are tested
  uses     prints the metrics and labels that rules and runbooks name, as JSON
  narrow   copies each file of alert tests into a folder of its own below FOLDER, with the rules
           that it names beside it, so that it does not evaluate all others
  shorten  prints the alerts with every for, window and interval divided by FACTOR, and with
           SETTINGS of the mixin, as Jsonnet: for tests that cannot wait for hours`

func main() {
	err := errors.New(usage)
	switch {
	case len(os.Args) == 3:
		err = run(os.Args[1], os.Args[2])
	case len(os.Args) == 4 && os.Args[1] == "narrow":
		err = narrow(os.Args[2], os.Args[3])
	case len(os.Args) > 3 && len(os.Args) < 6 && os.Args[1] == "shorten":
		err = shorten(os.Args[2], os.Args[3], strings.Join(os.Args[4:], ""))
	}
	if err != nil {
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

// shorten prints the alerts with shorter times.
func shorten(root, factor, settings string) error {
	by, err := strconv.ParseFloat(factor, 64)
	if err != nil || by <= 0 {
		return fmt.Errorf("FACTOR is %q: give a number above 0, such as 30", factor)
	}
	short, err := mixin.Shorter(root, by)
	if err != nil {
		return err
	}
	if settings != "" {
		short += " + " + settings
	}
	alerts, err := mixin.Evaluate(root, "prometheusAlerts", short)
	if err != nil {
		return err
	}
	text, err := mixin.YAML(alerts)
	if err == nil {
		_, err = os.Stdout.Write(text)
	}
	return err
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
