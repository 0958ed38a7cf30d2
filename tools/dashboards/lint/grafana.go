// SPDX-License-Identifier: Apache-2.0

// Package lint checks written dashboards: that they are what their readers expect, and the
// rules that every panel keeps to.
package lint

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

// grafanaDashboard is what the rules need of a dashboard.
type grafanaDashboard struct {
	UID        string
	Title      string
	Templating struct {
		List []struct {
			Name, Type string
			Query      any
			Datasource *dataSource
		}
	}
	Panels []grafanaPanel
	Links  []struct {
		Type, URL   string
		Placement   string
		Tags        []string
		IncludeVars bool
	}
	Tags []string

	name string
}

type dataSource struct{ Type, UID string }

type grafanaPanel struct {
	ID          int
	Type        string
	Title       string
	Description string
	GridPos     struct{ X, Y, W, H int }
	Datasource  *dataSource
	Targets     []target
	FieldConfig struct {
		Defaults struct {
			Unit, NoValue string
			Links         []struct{ URL string }
		}
		Overrides []struct {
			Properties []struct {
				ID    string
				Value json.RawMessage
			}
		}
	}
}

type target struct {
	RefID          string
	Expr           string
	LegendFormat   string
	Instant, Range bool
	Exemplar       bool
	Datasource     *dataSource
}

// Grafana checks the dashboards of a folder, and returns the number of their panels. Links
// to runbooks lead to pages of another folder.
func Grafana(folder, runbooks string) (faults []error, panels int, err error) {
	paths, err := filepath.Glob(filepath.Join(folder, "*.json"))
	if err != nil {
		return nil, 0, err
	}
	all := make([]grafanaDashboard, 0, len(paths))
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			return nil, 0, err
		}
		name := strings.TrimSuffix(filepath.Base(path), ".json")
		if err := schema(raw); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", name, err))
			continue
		}
		d := grafanaDashboard{name: name}
		if err := json.Unmarshal(raw, &d); err != nil {
			return nil, 0, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, d)
	}
	if len(all) == 0 && len(faults) == 0 {
		return nil, 0, fmt.Errorf("there is no dashboard in %s", folder)
	}
	titles := map[string]string{}
	uids := map[string]bool{}
	for i := range all {
		uids[all[i].UID] = true
		if other := titles[all[i].Title]; other != "" {
			faults = append(faults, fmt.Errorf("%s: %s has the same title", all[i].name, other))
		}
		titles[all[i].Title] = all[i].name
	}
	for i := range all {
		for _, fault := range all[i].faults(uids, runbooks) {
			faults = append(faults, fmt.Errorf("%s: %w", all[i].name, fault))
		}
		panels += len(all[i].charts())
	}
	return faults, panels, nil
}

// schema decodes a dashboard as Grafana's schema has it; unknown and missing fields are
// faults. The decoder and Validate return errors without a text for a dashboard that is right:
// an empty list of faults in an interface.
func schema(raw []byte) error {
	plugins.RegisterDefaultPlugins()
	d := dashboard.Dashboard{} //nolint:staticcheck // the second version cannot be imported before Grafana 12
	if err := d.UnmarshalJSONStrict(raw); err != nil && err.Error() != "" {
		return fmt.Errorf("decode: %w", err)
	}
	if err := d.Validate(); err != nil && err.Error() != "" {
		return fmt.Errorf("validate: %w", err)
	}
	return nil
}

// charts are the panels that are no headings.
func (d *grafanaDashboard) charts() (all []*grafanaPanel) {
	for i := range d.Panels {
		if d.Panels[i].Type != "row" {
			all = append(all, &d.Panels[i])
		}
	}
	return all
}

func (d *grafanaDashboard) faults(uids map[string]bool, runbooks string) (faults []error) {
	if d.UID != "otelcol-gpu-"+d.name {
		faults = append(faults, fmt.Errorf("its uid %q is not otelcol-gpu- and the file's name: links would break", d.UID))
	}
	faults = append(faults, d.linkFaults()...)
	faults = append(faults, d.layoutFaults()...)
	variables := d.variables()
	used := map[string]bool{}
	charts := d.charts()
	if len(charts) == 0 {
		faults = append(faults, errors.New("it has no panel"))
	}
	for _, p := range charts {
		found := p.faults(variables, used)
		found = append(found, p.linkFaults(uids, runbooks, variables, used)...)
		for _, fault := range found {
			faults = append(faults, fmt.Errorf("%q: %w", p.Title, fault))
		}
	}
	for i := range d.Templating.List {
		v := &d.Templating.List[i]
		if text, ok := v.Query.(string); ok && v.Type == "query" {
			if v.Datasource == nil || !isVariable(v.Datasource, variables, "prometheus", used) {
				faults = append(faults, fmt.Errorf("the variable %s has no variable as data source", v.Name))
			}
			use(text, variables, used)
		}
	}
	for name := range variables {
		if !used[name] {
			faults = append(faults, fmt.Errorf("nothing uses the variable %s", name))
		}
	}
	return faults
}

// variables are the types of the dashboard's variables: of a data source its plugin.
func (d *grafanaDashboard) variables() map[string]string {
	all := map[string]string{}
	for i := range d.Templating.List {
		v := &d.Templating.List[i]
		all[v.Name] = v.Type
		if plugin, ok := v.Query.(string); ok && v.Type == "datasource" {
			all[v.Name] = plugin
		}
	}
	return all
}

// linkFaults checks that the other dashboards and the runbooks can be reached.
func (d *grafanaDashboard) linkFaults() (faults []error) {
	dashboards, pages := false, false
	for _, l := range d.Links {
		if l.Placement != "" {
			faults = append(faults, fmt.Errorf("a link is hidden: %s", l.Placement))
		}
		for _, tag := range l.Tags {
			for _, other := range d.Tags {
				dashboards = dashboards || l.Type == "dashboards" && tag == other && l.IncludeVars
			}
		}
		pages = pages || strings.HasSuffix(l.URL, "/docs/runbooks/README.md")
	}
	if !dashboards {
		faults = append(faults, errors.New("no link leads to the dashboards with its tag, with its variables"))
	}
	if !pages {
		faults = append(faults, errors.New("no link leads to the runbooks"))
	}
	return faults
}

const columns = 24

// layoutFaults checks ids, titles and places.
func (d *grafanaDashboard) layoutFaults() (faults []error) {
	ids, titles := map[int]bool{}, map[string]bool{}
	for i := range d.Panels {
		p := &d.Panels[i]
		if p.ID == 0 || ids[p.ID] {
			faults = append(faults, fmt.Errorf("%q: its id %d is not its own", p.Title, p.ID))
		}
		if p.Title == "" || titles[p.Title] {
			faults = append(faults, fmt.Errorf("%q: its title is not its own", p.Title))
		}
		ids[p.ID], titles[p.Title] = true, true
		a := p.GridPos
		if a.W < 1 || a.H < 1 || a.X < 0 || a.X+a.W > columns {
			faults = append(faults, fmt.Errorf("%q: it is outside of the %d columns", p.Title, columns))
		}
		for j := range i {
			if b := d.Panels[j].GridPos; a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
				faults = append(faults, fmt.Errorf("%q: it overlaps %q", p.Title, d.Panels[j].Title))
			}
		}
	}
	return faults
}

// variable finds the variables in a text: $name or ${name}.
var variable = regexp.MustCompile(`\$\{?([a-zA-Z_][a-zA-Z0-9_]*)`)

// use marks the variables in a text, and returns those that the dashboard does not have.
func use(text string, variables map[string]string, used map[string]bool) (unknown []string) {
	for _, m := range variable.FindAllStringSubmatch(text, -1) {
		if strings.HasPrefix(m[1], "__") {
			continue // Grafana's own
		}
		if _, ok := variables[m[1]]; !ok {
			unknown = append(unknown, m[1])
		}
		used[m[1]] = true
	}
	return unknown
}

// isVariable reports whether a data source is a variable of the dashboard for a plugin.
func isVariable(s *dataSource, variables map[string]string, plugin string, used map[string]bool) bool {
	name, ok := strings.CutPrefix(s.UID, "${")
	name = strings.TrimSuffix(name, "}")
	used[name] = true
	return ok && s.Type == plugin && variables[name] == plugin
}
