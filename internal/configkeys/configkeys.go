// SPDX-License-Identifier: Apache-2.0

// Package configkeys finds mistakes in a component's configuration and describes them
// in one wording: the whole path of the key, the value, what is wrong with it, and the
// remedy.
package configkeys

import (
	"encoding"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/agnivade/levenshtein"
	"go.opentelemetry.io/collector/confmap"
)

// Unmarshal decodes conf into a component's configuration. Beyond what confmap does, it
// refuses unknown keys at every depth, durations without a unit, and values of another
// kind than the key takes; the error names each of them. into is a pointer to a struct
// with mapstructure tags.
func Unmarshal(conf *confmap.Conf, into any) error {
	if err := Check(conf.ToStringMap(), into); err != nil {
		return err
	}
	return conf.Unmarshal(into)
}

// Check compares what is given with the keys of a configuration struct, as [Unmarshal]
// does, and decodes nothing.
func Check(given map[string]any, config any) error {
	var p Problems
	checkStruct(&p, "", given, reflect.TypeOf(config))
	return p.Err()
}

var (
	durationType    = reflect.TypeFor[time.Duration]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
	confUnmarshaler = reflect.TypeFor[confmap.Unmarshaler]()
)

// field is what a key stands for.
type field struct {
	typ      reflect.Type
	optional bool // a configoptional.Optional, which also takes the key enabled
}

// fieldsOf lists the keys of a struct by its mapstructure tags, squashed ones included.
func fieldsOf(t reflect.Type, into map[string]field) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("mapstructure"), ",")
		switch {
		case strings.Contains(options, "squash"):
			if inner, _ := Underlying(f.Type); inner.Kind() == reflect.Struct {
				fieldsOf(inner, into)
			}
		case name != "" && name != "-" && f.IsExported():
			inner, optional := Underlying(f.Type)
			into[name] = field{typ: inner, optional: optional}
		}
	}
}

// Keys lists the keys of a configuration struct, squashed ones included, sorted.
func Keys(t reflect.Type) []string {
	fields := map[string]field{}
	fieldsOf(t, fields)
	return slices.Sorted(maps.Keys(fields))
}

// Underlying is the type that pointers and configoptional.Optional wrap; optional reports
// the latter.
func Underlying(t reflect.Type) (inner reflect.Type, optional bool) {
	for {
		switch {
		case t.Kind() == reflect.Pointer:
			t = t.Elem()
		case strings.HasPrefix(t.Name(), "Optional[") && strings.HasSuffix(t.PkgPath(), "/config/configoptional"):
			get, _ := reflect.PointerTo(t).MethodByName("Get")
			t, optional = get.Type.Out(0).Elem(), true
		default:
			return t, optional
		}
	}
}

func checkStruct(p *Problems, path string, given map[string]any, t reflect.Type) {
	t, optional := Underlying(t)
	fields := map[string]field{}
	fieldsOf(t, fields)
	checkFields(p, path, given, fields, optional)
}

func checkFields(p *Problems, path string, given map[string]any, fields map[string]field, optional bool) {
	if optional {
		fields["enabled"] = field{typ: reflect.TypeFor[bool]()}
	}
	for _, key := range slices.Sorted(maps.Keys(given)) {
		if f, ok := fields[key]; ok {
			checkValue(p, path+key, given[key], f)
		} else {
			p.Add(path+key, nil, "unknown key", Suggestion(key, slices.Sorted(maps.Keys(fields))))
		}
	}
}

// checkValue checks one value, and what is below it.
func checkValue(p *Problems, key string, value any, f field) {
	t := f.typ
	switch {
	case value == nil: // the key without a value: the default
		return
	case t == durationType:
		checkDuration(p, key, value)
		return
	case reflect.PointerTo(t).Implements(textUnmarshaler):
		checkText(p, key, value)
		return
	}
	switch t.Kind() {
	case reflect.Struct:
		inner, ok := value.(map[string]any)
		if !ok {
			p.Add(key, value, "is not a group of keys", "write the keys indented below "+key[strings.LastIndex(key, ":")+1:]+":")
			return
		}
		fields := map[string]field{}
		fieldsOf(t, fields)
		checkFields(p, key+confmap.KeyDelimiter, inner, fields, f.optional)
	case reflect.Map:
		inner, ok := value.(map[string]any)
		if !ok {
			p.Add(key, value, "is not a group of keys", "write name: value pairs indented below it")
			return
		}
		element, _ := Underlying(t.Elem())
		for _, name := range slices.Sorted(maps.Keys(inner)) {
			checkValue(p, key+confmap.KeyDelimiter+name, inner[name], field{typ: element})
		}
	case reflect.Slice:
		if reflect.PointerTo(t).Implements(confUnmarshaler) {
			return // configopaque.MapList takes a list and a group
		}
		list, ok := value.([]any)
		if !ok {
			if _, isGroup := value.(map[string]any); isGroup {
				p.Add(key, nil, "is a group of keys and not a list", "write - before each entry")
			} else {
				p.Add(key, value, "is not a list", fmt.Sprintf("write a list, for example [%v]", value))
			}
			return
		}
		element, _ := Underlying(t.Elem())
		for i, v := range list {
			checkValue(p, key+confmap.KeyDelimiter+strconv.Itoa(i), v, field{typ: element})
		}
	case reflect.Bool:
		if _, ok := value.(bool); !ok {
			p.Add(key, value, "is not a valid value", "use true or false")
		}
	case reflect.Int, reflect.Int32, reflect.Int64, reflect.Uint, reflect.Uint32, reflect.Uint64:
		if n, ok := number(value); !ok || n != math.Trunc(n) {
			p.Add(key, value, "is not a whole number", "use a number without quotes, for example 100")
		}
	case reflect.Float32, reflect.Float64:
		if _, ok := number(value); !ok {
			p.Add(key, value, "is not a number", "use a number without quotes, for example 0.5")
		}
	case reflect.String:
		checkText(p, key, value)
	}
}

// checkText refuses what cannot be a single value.
func checkText(p *Problems, key string, value any) {
	switch value.(type) {
	case map[string]any, []any:
		p.Add(key, nil, "is a list or a group of keys", "use a single value")
	}
}

// checkDuration refuses what mapstructure would take for nanoseconds. 0 needs no unit.
func checkDuration(p *Problems, key string, value any) {
	if n, ok := number(value); ok {
		if n != 0 {
			p.Add(key, value, "has no unit", fmt.Sprintf("use a duration with a unit, for example %vs", value))
		}
		return
	}
	text, ok := value.(string)
	if ok {
		if _, err := time.ParseDuration(text); err == nil {
			return
		}
	}
	p.Add(key, value, "is not a valid duration", "use a number with a unit, for example 500ms, 15s or 10m")
}

func number(value any) (n float64, ok bool) {
	v := reflect.ValueOf(value)
	switch {
	case v.CanInt():
		return float64(v.Int()), true
	case v.CanUint():
		return float64(v.Uint()), true
	case v.CanFloat():
		return v.Float(), true
	}
	return 0, false
}

// Suggestion is the nearest known key if one is near, else all of them if they are few.
func Suggestion(key string, known []string) string {
	best, distance := "", len(key)/3+2
	for _, name := range known {
		if d := levenshtein.ComputeDistance(key, name); d < distance {
			best, distance = name, d
		}
	}
	switch {
	case best != "":
		return "did you mean " + best + "?"
	case len(known) <= 20:
		return "the keys here are " + strings.Join(known, ", ")
	}
	return "see the component's README"
}
