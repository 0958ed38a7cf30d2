// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/otelcol-gpu/otelcol-gpu/tools/dashboards/board"
)

// maxVMUIPanels bounds a page of vmui, so that a reader finds what matters.
const maxVMUIPanels = 8

// VMUI checks the dashboards of vmui in a folder, and returns the number of their panels. vmui
// itself ignores keys that it does not know, and shows no dashboard at all if one is broken.
func VMUI(folder string) (faults []error, panels int, err error) {
	paths, err := filepath.Glob(filepath.Join(folder, "*.json"))
	if err != nil {
		return nil, 0, err
	}
	if len(paths) == 0 {
		return nil, 0, fmt.Errorf("there is no dashboard in %s", folder)
	}
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			return nil, 0, err
		}
		name := filepath.Base(path)
		decoder := json.NewDecoder(bytes.NewReader(raw))
		decoder.DisallowUnknownFields()
		var d board.VMUIDashboard
		if err := decoder.Decode(&d); err != nil {
			faults = append(faults, fmt.Errorf("vmui: %s: %w", name, err))
			continue
		}
		found, n := vmuiFaults(&d)
		for _, fault := range found {
			faults = append(faults, fmt.Errorf("vmui: %s: %w", name, fault))
		}
		panels += n
	}
	return faults, panels, nil
}

func vmuiFaults(d *board.VMUIDashboard) (faults []error, panels int) {
	if d.Title == "" {
		faults = append(faults, errors.New("it has no title"))
	}
	titles := map[string]bool{}
	for _, row := range d.Rows {
		if row.Title == "" || len(row.Panels) == 0 {
			faults = append(faults, fmt.Errorf("the row %q has no title or no panel", row.Title))
		}
		for i := range row.Panels {
			p := &row.Panels[i]
			panels++
			if titles[p.Title] {
				faults = append(faults, fmt.Errorf("%q is there twice", p.Title))
			}
			titles[p.Title] = true
			for _, fault := range vmuiPanelFaults(p) {
				faults = append(faults, fmt.Errorf("%q: %w", p.Title, fault))
			}
		}
	}
	if panels == 0 || panels > maxVMUIPanels {
		faults = append(faults, fmt.Errorf("it has %d panels, not 1 to %d", panels, maxVMUIPanels))
	}
	return faults, panels
}

// bounded is an expression that has so many series at most.
var bounded = regexp.MustCompile(`^topk_max\((\d+), `)

// grafanaOnly are words for what vmui does not have.
var grafanaOnly = regexp.MustCompile(`(?i)\b(traces?|exemplars?|points?|leads|its own dashboard)\b`)

func vmuiPanelFaults(p *board.VMUIPanel) (faults []error) {
	fault := func(format string, arguments ...any) { faults = append(faults, fmt.Errorf(format, arguments...)) }
	if p.Title == "" {
		fault("it has no title")
	}
	if strings.TrimSpace(p.Description) == "" {
		fault("it has no description")
	}
	if strings.HasSuffix(p.Title, ")") && !strings.Contains(p.Description, "Empty if ") {
		fault("its title says that it may be empty, and its description not why")
	}
	if word := grafanaOnly.FindString(p.Description); word != "" {
		fault("its description mentions %q, and vmui has neither exemplars nor links", word)
	}
	if p.Width < 1 || p.Width > 12 {
		fault("its width %d is not 1 to 12", p.Width)
	}
	if !p.ShowLegend {
		fault("it has no legend")
	}
	if len(p.Expr) == 0 || len(p.Expr) != len(p.Alias) {
		fault("it has %d expressions and %d aliases", len(p.Expr), len(p.Alias))
	}
	series := 0
	for _, expr := range p.Expr {
		if strings.Contains(expr, "$") {
			fault("vmui has no variables: %s", expr)
		}
		m := bounded.FindStringSubmatch(expr)
		if m == nil {
			fault("its series are not bounded by topk_max: %s", expr)
			continue
		}
		n, err := strconv.Atoi(m[1])
		if err != nil {
			fault("%w", err)
		}
		series += n
	}
	if series > board.VMUIMaxSeries {
		fault("it may have %d series, and vmui draws %d", series, board.VMUIMaxSeries)
	}
	return faults
}
