// SPDX-License-Identifier: Apache-2.0

package gpuadvisorconnector

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/internal/advice"
	"github.com/otelcol-gpu/otelcol-gpu/internal/configkeys"
)

// validateAdvice adds the mistakes of the keys about decisions.
func (c *Config) validateAdvice(p *configkeys.Problems) {
	c.DefaultClass.validate(p, "default_class")
	for _, name := range slices.Sorted(maps.Keys(c.Classes)) {
		of := c.Classes[name]
		p.AddIf(name == "", "classes", nil, "a class has no name", "use the name of a task class, for example people")
		of.validate(p, "classes::"+name)
	}
	p.AddIf(c.Advice.BatchWaiting < 1, "advice::batch_waiting", c.Advice.BatchWaiting, "is less than 1", "use a number such as 2")
	p.AddIf(!(c.Advice.SafetyMargin >= 0 && c.Advice.SafetyMargin <= 1), "advice::safety_margin", c.Advice.SafetyMargin, "is not between 0 and 1", "use a part such as 0.05")
	for i, url := range c.Advice.Standby {
		p.AddIf(!configkeys.IsHTTP(url), fmt.Sprintf("advice::standby::%d", i), url, "is not a valid URL", "use http://host:port, for example http://gpu-node-08:8188")
	}
}

func (c ClassConfig) validate(p *configkeys.Problems, key string) {
	for _, d := range []struct {
		key   string
		value time.Duration
	}{{"deadline", c.Deadline}, {"objective", c.Objective}} {
		p.AddIf(d.value < 0 || d.value > admission.MaxDeadline, key+"::"+d.key, d.value, "is not between 0s and 24h", "use a duration such as 30s, or 0s for none")
	}
}

// adviceSettings are those of the decisions.
func (c *Config) adviceSettings() advice.Settings {
	s := advice.DefaultSettings()
	s.Default = advice.Class(c.DefaultClass)
	for name, of := range c.Classes {
		s.Classes[name] = advice.Class(of)
	}
	s.BatchWaiting, s.SafetyMargin, s.Standby, s.GPUs = c.Advice.BatchWaiting, c.Advice.SafetyMargin, c.Advice.Standby, c.Limits.GPUs
	return s
}

// recommendedSide is the size that is recommended where nothing is learned.
const recommendedSide = 680

// messages are what to tell a user whose prompt is not admitted, by language.
func messages(d *admission.Decision) map[string]string {
	m := texts.Message{Key: "advice.message.later"}
	side := d.MaxSide
	if side == 0 && d.Executions == 0 {
		side = recommendedSide
	}
	switch {
	case d.Reason == admission.Unhealthy:
		m.Key = "advice.message.unhealthy"
	case d.Reason == admission.TooLarge && side > 0:
		m = texts.Message{Key: "advice.message.too_large", Args: texts.Args{"side": side}}
	case d.Reason == admission.TooLarge:
		m.Key = "advice.message.never"
	case side > 0:
		m = texts.Message{Key: "advice.message.smaller", Args: texts.Args{"side": side}}
	}
	all := make(map[string]string, len(texts.Languages()))
	for _, l := range texts.Languages() {
		all[string(l)] = m.In(l)
	}
	return all
}
