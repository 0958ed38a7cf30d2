// SPDX-License-Identifier: Apache-2.0

package nvmlreceiver

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.opentelemetry.io/collector/confmap"

	"github.com/otelcol-gpu/otelcol-gpu/internal/configkeys"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

// Unmarshal refuses what [configkeys.Unmarshal] refuses, metrics under only that do not
// exist, and intervals that are not positive.
func (c *Config) Unmarshal(conf *confmap.Conf) error {
	if err := configkeys.Check(conf.ToStringMap(), c); err != nil {
		return err
	}
	if err := indicesAsText(conf); err != nil {
		return err
	}
	if err := enableOnly(conf); err != nil {
		return err
	}
	if err := conf.Unmarshal(c); err != nil {
		return err
	}
	// Here and not in Validate, since scraperhelper validates these two in its own words.
	var p configkeys.Problems
	p.AddIf(c.CollectionInterval <= 0, "collection_interval", c.CollectionInterval, "is not positive", "use a duration such as 15s")
	p.AddIf(c.CollectionInterval > 0 && c.CollectionInterval < minInterval, "collection_interval", c.CollectionInterval,
		fmt.Sprintf("is shorter than %v, and every call of the driver waits for its one lock", minInterval),
		"use 15s, or 200ms with working_interval: 50ms beside the gpucorrelation connector")
	p.AddIf(c.InitialDelay < 0, "initial_delay", c.InitialDelay, "is negative", "use a duration such as 1s, or 0s for none")
	p.AddIf(c.Timeout < 0, "timeout", c.Timeout, "is negative", "use a duration such as 10s, or remove it")
	// The default is longer than short intervals, which says nothing.
	p.AddIf(conf.IsSet("sampling_interval") && c.CollectionInterval >= minInterval && c.SamplingInterval > c.CollectionInterval,
		"sampling_interval", c.SamplingInterval,
		fmt.Sprintf("is longer than collection_interval (%v), so that there is nothing to sample between two scrapes", c.CollectionInterval),
		"use a shorter one, or 0 to disable the sampler")
	return p.Err()
}

// enableOnly disables every metric that the key only does not list; the key metrics
// takes precedence.
func enableOnly(conf *confmap.Conf) error {
	listed, ok := conf.Get("only").([]any)
	if !ok || len(listed) == 0 {
		return nil
	}
	known := configkeys.Keys(reflect.TypeFor[metadata.MetricsConfig]())
	enabled := map[string]any{}
	for _, name := range known {
		enabled[name] = map[string]any{"enabled": slices.Contains(listed, any(name))}
	}
	var problems configkeys.Problems
	for i, name := range listed {
		text := fmt.Sprint(name)
		if !slices.Contains(known, text) {
			problems.Add(fmt.Sprintf("only::%d", i), text, "is not a metric of this receiver",
				configkeys.Suggestion(text, known))
		}
	}
	if err := problems.Err(); err != nil {
		return err
	}
	given, err := conf.Sub("metrics")
	if err != nil {
		return err
	}
	all := confmap.NewFromStringMap(enabled)
	return errors.Join(all.Merge(given), conf.Merge(confmap.NewFromStringMap(map[string]any{"metrics": all.ToStringMap()})))
}

// indicesAsText accepts indices without quotes in devices: YAML reads 0 as a number.
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
