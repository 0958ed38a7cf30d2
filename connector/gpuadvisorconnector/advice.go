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
	p.AddIf(c.Advice.BusyFor < 10*time.Second || c.Advice.BusyFor > minHistory, "advice::busy_for", c.Advice.BusyFor, "is not between 10s and 15m", "use a duration such as 2m")
	p.AddIf(!(c.Advice.SafetyMargin >= 0 && c.Advice.SafetyMargin <= 1), "advice::safety_margin", c.Advice.SafetyMargin, "is not between 0 and 1", "use a part such as 0.05")
	p.AddIf(len(c.Advice.Measured) > maxMeasured, "advice::measured", len(c.Advice.Measured), fmt.Sprintf("is more than %d", maxMeasured), "remove some")
	for i := range c.Advice.Measured {
		c.Advice.Measured[i].validate(p, fmt.Sprintf("advice::measured::%d", i))
	}
	for i, url := range c.Advice.Standby {
		p.AddIf(!configkeys.IsHTTP(url), fmt.Sprintf("advice::standby::%d", i), url, "is not a valid URL", "use http://host:port, for example http://gpu-node-08:8188")
	}
}

// maxMeasured bounds the measurements of a configuration.
const maxMeasured = 1000

func (c *MeasuredConfig) validate(p *configkeys.Problems, key string) {
	const most = 1 << 20
	p.AddIf(c.Side < 1 || c.Side > most, key+"::side", c.Side, "is not between 1 and 1048576", "use the longer side in pixels, for example 1280")
	p.AddIf(c.Batch < 0 || c.Batch > most, key+"::batch", c.Batch, "is not between 0 and 1048576", "use a number of images, or omit the key for one")
	p.AddIf(c.Steps < 0 || c.Steps > most, key+"::steps", c.Steps, "is not between 0 and 1048576", "use a number of steps, or omit the key where there are none")
	p.AddIf(c.Time < 0 || c.Time > admission.MaxDeadline, key+"::time", c.Time, "is not between 0s and 24h", "use a duration such as 1800ms")
	p.AddIf(c.MemoryMiB < 0 || c.MemoryMiB > 1<<30, key+"::memory_mib", c.MemoryMiB, "is not between 0 and 1073741824", "use MiB, for example 3500")
	p.AddIf(c.Time == 0 && c.MemoryMiB == 0, key, nil, "has neither time nor memory_mib", "set one, or remove the entry")
}

func (c ClassConfig) validate(p *configkeys.Problems, key string) {
	p.AddIf(c.Core && c.Batch, key+"::core", c.Core, "cannot be combined with batch", "remove one of them: batch is never urgent")
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
	for i := range c.Advice.Measured {
		m := &c.Advice.Measured[i]
		s.Measured = append(s.Measured, advice.Measured{
			Workflow: m.Workflow, Model: m.Model, GPU: m.GPU, Side: m.Side, Batch: m.Batch, Steps: m.Steps, Time: m.Time, Memory: int64(m.MemoryMiB) << 20,
		})
	}
	s.BatchWaiting, s.SafetyMargin, s.Standby, s.GPUs = c.Advice.BatchWaiting, c.Advice.SafetyMargin, c.Advice.Standby, c.Limits.GPUs
	return s
}

// recommendedSide is the size that is recommended where nothing is learned, to who asked for a larger one.
const recommendedSide = 680

// messages are what to tell a user whose prompt is not admitted, by language. Where they name a size that
// the decision has not, it is set there, too.
func messages(r *admission.Request, d *admission.Decision) map[string]string {
	m := texts.Message{Key: "advice.message.later"}
	if helps := r.Side == 0 || r.Side > recommendedSide; helps && d.MaxSide == 0 && d.Completion == 0 { // its time is not known
		switch d.Reason {
		case admission.Unhealthy, admission.TooLarge, admission.BatchWaits: // nothing says that a smaller one is admitted
		default:
			d.MaxSide = recommendedSide
		}
	}
	switch {
	case d.Reason == admission.Unhealthy:
		m.Key = "advice.message.unhealthy"
	case d.Reason == admission.TooLarge && d.MaxSide > 0:
		m = texts.Message{Key: "advice.message.too_large", Args: texts.Args{"side": d.MaxSide}}
	case d.Reason == admission.TooLarge:
		m.Key = "advice.message.never"
	case d.MaxSide > 0:
		m = texts.Message{Key: "advice.message.smaller", Args: texts.Args{"side": d.MaxSide}}
	}
	all := make(map[string]string, len(texts.Languages()))
	for _, l := range texts.Languages() {
		all[string(l)] = m.In(l)
	}
	return all
}
