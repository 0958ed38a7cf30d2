// SPDX-License-Identifier: Apache-2.0

package gpumodel

import (
	"embed"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

//go:embed kinds/*.yaml
var kinds embed.FS

// Kinds lists the kinds of counters and power readings, sorted.
func Kinds() []string {
	files, err := fs.Glob(kinds, "kinds/*.yaml")
	if err != nil {
		panic(err)
	}
	for i, f := range files {
		files[i] = strings.TrimSuffix(strings.TrimPrefix(f, "kinds/"), ".yaml")
	}
	slices.Sort(files)
	return files
}

// Load reads a kind by its name.
func Load(name string) (m Model, err error) {
	raw, err := kinds.ReadFile("kinds/" + name + ".yaml")
	if err != nil {
		return m, fmt.Errorf("kind of counter %q: it is none of %s", name, strings.Join(Kinds(), ", "))
	}
	d := yaml.NewDecoder(strings.NewReader(string(raw)))
	d.KnownFields(true)
	if err := d.Decode(&m); err != nil {
		return m, fmt.Errorf("kind of counter %q: %w", name, err)
	}
	return m, nil
}

// MustLoad is Load of a kind that is there.
func MustLoad(name string) Model {
	m, err := Load(name)
	if err != nil {
		panic(err)
	}
	return m
}
