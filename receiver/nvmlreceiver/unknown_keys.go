// SPDX-License-Identifier: Apache-2.0

package nvmlreceiver

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.opentelemetry.io/collector/confmap"

	"github.com/otelcol-gpu/otelcol-gpu/internal/configkeys"
)

// Unmarshal refuses keys that are not known, naming the nearest that is.
func (c *Config) Unmarshal(conf *confmap.Conf) error {
	known := confmap.New()
	if err := known.Marshal(c); err != nil {
		return err
	}
	if err := configkeys.Unknown("", conf.ToStringMap(), known.ToStringMap()); err != nil {
		return err
	}
	if err := indicesAsText(conf); err != nil {
		return err
	}
	metrics, _ := known.ToStringMap()["metrics"].(map[string]any)
	if err := onlyThese(conf, metrics); err != nil {
		return err
	}
	return conf.Unmarshal(c)
}

// onlyThese switches every metric off that the key only does not name; what stands
// under metrics goes before.
func onlyThese(conf *confmap.Conf, known map[string]any) error {
	names, ok := conf.Get("only").([]any)
	if !ok || len(names) == 0 {
		return nil
	}
	switched := map[string]any{}
	for name := range known {
		switched[name] = map[string]any{"enabled": slices.Contains(names, any(name))}
	}
	var errs []error
	for i, name := range names {
		text := fmt.Sprint(name)
		if err := configkeys.Unknown("", map[string]any{text: nil}, known); err != nil {
			errs = append(errs, fmt.Errorf("only::%d: %w", i, err))
		}
	}
	given, err := conf.Sub("metrics")
	if err == nil {
		all := confmap.NewFromStringMap(switched)
		err = errors.Join(all.Merge(given), conf.Merge(confmap.NewFromStringMap(map[string]any{"metrics": all.ToStringMap()})))
	}
	return errors.Join(append(errs, err)...)
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
