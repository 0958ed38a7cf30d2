// SPDX-License-Identifier: Apache-2.0

// Command dashboards writes the dashboards of Grafana and of vmui from one source, and checks
// them. `make generate` and `make dashboards-check` run it.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/otelcol-gpu/otelcol-gpu/tools/dashboards/board"
	"github.com/otelcol-gpu/otelcol-gpu/tools/dashboards/boards"
	"github.com/otelcol-gpu/otelcol-gpu/tools/dashboards/lint"
)

const usage = `usage: dashboards render|check ROOT
  render  writes the dashboards under deploy/grafana, deploy/vmui and deploy/prometheus/mixin
  check   checks that these are up to date and valid, and prints how many panels they have`

// Where the dashboards are, from the repository's root. The mixin has copies: Jsonnet finds
// files in the mixin's own folder only, where others vendor it.
const (
	grafanaFolder = "deploy/grafana/dashboards"
	mixinFolder   = "deploy/prometheus/mixin/dashboards"
	vmuiFolder    = "deploy/vmui/dashboards"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "dashboards:", err)
		os.Exit(1)
	}
}

func run(command, root string) error {
	files, err := render()
	if err != nil {
		return err
	}
	switch command {
	case "render":
		for name, text := range files {
			path := filepath.Join(root, name)
			if before, err := os.ReadFile(path); err == nil && bytes.Equal(before, text) {
				continue // a server may be reading it
			}
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(path, text, 0o644); err != nil {
				return err
			}
		}
		return nil
	case "check":
		return check(root, files)
	}
	return errors.New(usage)
}

// render is every file, by its path from the repository's root.
func render() (map[string][]byte, error) {
	files := map[string][]byte{}
	all := boards.All()
	for i := range all {
		raw, err := all[i].Grafana()
		if err != nil {
			return nil, err
		}
		files[filepath.Join(grafanaFolder, all[i].Name+".json")] = raw
		files[filepath.Join(mixinFolder, all[i].Name+".json")] = raw
	}
	pages, err := board.VMUIFiles(boards.Pages(), all)
	if err != nil {
		return nil, err
	}
	for name, raw := range pages {
		files[filepath.Join(vmuiFolder, name+".json")] = raw
	}
	return files, nil
}

// check compares the files with what is rendered, and checks those that are there.
func check(root string, files map[string][]byte) error {
	var faults []error
	for name, want := range files {
		if got, err := os.ReadFile(filepath.Join(root, name)); err != nil || !bytes.Equal(got, want) {
			faults = append(faults, fmt.Errorf("%s is not up to date; run make generate", name))
		}
	}
	for _, folder := range []string{grafanaFolder, mixinFolder, vmuiFolder} {
		there, err := filepath.Glob(filepath.Join(root, folder, "*.json"))
		if err != nil {
			return err
		}
		for _, path := range there {
			if name := filepath.Join(folder, filepath.Base(path)); files[name] == nil {
				faults = append(faults, fmt.Errorf("%s is not made from the source: remove it", name))
			}
		}
	}
	grafana, panels, err := lint.Grafana(filepath.Join(root, grafanaFolder), filepath.Join(root, "docs", "runbooks"))
	if err != nil {
		return err
	}
	vmui, lines, err := lint.VMUI(filepath.Join(root, vmuiFolder))
	if err != nil {
		return err
	}
	if err := errors.Join(append(append(faults, grafana...), vmui...)...); err != nil {
		return err
	}
	fmt.Printf("figure dashboards.grafana.panels %d panels\nfigure dashboards.vmui.panels %d panels\n", panels, lines)
	return nil
}
