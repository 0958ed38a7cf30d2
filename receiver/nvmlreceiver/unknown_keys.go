package nvmlreceiver

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/agnivade/levenshtein"
	"go.opentelemetry.io/collector/confmap"
)

// Unmarshal refuses keys that are not known, naming the nearest that is.
func (c *Config) Unmarshal(conf *confmap.Conf) error {
	known := confmap.New()
	if err := known.Marshal(c); err != nil {
		return err
	}
	if err := unknownKeys("", conf.ToStringMap(), known.ToStringMap()); err != nil {
		return err
	}
	if err := indicesAsText(conf); err != nil {
		return err
	}
	return conf.Unmarshal(c)
}

// indicesAsText lets devices name indices without quotes: YAML reads 0 as a number.
func indicesAsText(conf *confmap.Conf) error {
	for _, key := range []string{"devices::include", "devices::exclude"} {
		list, ok := conf.Get(key).([]any)
		if !ok {
			continue
		}
		text := make([]any, len(list))
		for i, v := range list {
			text[i] = v
			if n, isNumber := v.(int); isNumber {
				text[i] = strconv.Itoa(n)
			}
		}
		outer, inner, _ := strings.Cut(key, confmap.KeyDelimiter)
		if err := conf.Merge(confmap.NewFromStringMap(map[string]any{outer: map[string]any{inner: text}})); err != nil {
			return err
		}
	}
	return nil
}

// unknownKeys compares what is given with what is known, level by level.
func unknownKeys(path string, given, known map[string]any) error {
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(given)) {
		want, ok := known[key]
		if !ok {
			errs = append(errs, fmt.Errorf("%s%s: there is no such key%s", path, key, suggestion(key, known)))
			continue
		}
		inner, isMap := given[key].(map[string]any)
		if wantInner, ok := want.(map[string]any); isMap && ok {
			errs = append(errs, unknownKeys(path+key+confmap.KeyDelimiter, inner, wantInner))
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
