// SPDX-License-Identifier: Apache-2.0

// Package configkeys names mistakes in a component's configuration keys.
package configkeys

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
	"go.opentelemetry.io/collector/confmap"
)

// Unknown compares what is given with what is known, level by level, and names
// each key that is not known with the nearest that is.
func Unknown(path string, given, known map[string]any) error {
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(given)) {
		want, ok := known[key]
		if !ok {
			errs = append(errs, fmt.Errorf("%s%s: there is no such key%s", path, key, suggestion(key, known)))
			continue
		}
		inner, isMap := given[key].(map[string]any)
		if wantInner, ok := want.(map[string]any); isMap && ok {
			errs = append(errs, Unknown(path+key+confmap.KeyDelimiter, inner, wantInner))
		}
	}
	return errors.Join(errs...)
}

// suggestion is the nearest known key if it is near, else all of them if they are few.
func suggestion(key string, known map[string]any) string {
	best, distance := "", len(key)/3+2
	names := slices.Sorted(maps.Keys(known))
	for _, name := range names {
		if d := levenshtein.ComputeDistance(key, name); d < distance {
			best, distance = name, d
		}
	}
	switch {
	case best != "":
		return ": did you mean " + best + "?"
	case len(names) <= 20:
		return ": it can be one of " + strings.Join(names, ", ")
	}
	return ": see the receiver's documentation for what there is"
}

// Of lists the keys of a configuration struct by its mapstructure tags, for structs
// that take unknown keys silently themselves. What is below the keys is not looked at.
func Of(config any) map[string]any {
	known := map[string]any{}
	collect(reflect.TypeOf(config), known)
	return known
}

func collect(t reflect.Type, known map[string]any) {
	for i := range t.NumField() {
		name, options, _ := strings.Cut(t.Field(i).Tag.Get("mapstructure"), ",")
		switch {
		case strings.Contains(options, "squash"):
			collect(t.Field(i).Type, known)
		case name != "" && name != "-":
			known[name] = nil
		}
	}
}
