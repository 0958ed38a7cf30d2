// SPDX-License-Identifier: Apache-2.0

package mixin

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/prometheus/common/model"
)

// Shorter is the mixin's configuration, as Jsonnet, with each for, window and interval
// divided by a factor.
func Shorter(root string, factor float64) (string, error) {
	out, err := evaluateText(root, "_config", "{}")
	if err != nil {
		return "", err
	}
	var config map[string]any
	if err := json.Unmarshal([]byte(out), &config); err != nil {
		return "", fmt.Errorf("decode the mixin's configuration: %w", err)
	}
	raw, err := json.Marshal(shorter(config, factor))
	return string(raw), err
}

// shorter divides the durations among the values of a configuration; numbers and other texts
// stay as they are.
func shorter(value any, factor float64) any {
	switch v := value.(type) {
	case map[string]any:
		for key := range v {
			v[key] = shorter(v[key], factor)
		}
	case string:
		if _, err := strconv.ParseFloat(v, 64); err == nil { // "0" is a duration as well
			return v
		}
		if d, err := model.ParseDuration(v); err == nil {
			d = model.Duration(time.Duration(float64(d) / factor).Round(time.Millisecond))
			return d.String()
		}
	}
	return value
}
