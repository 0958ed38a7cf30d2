// SPDX-License-Identifier: Apache-2.0

package gpuadvisorconnector

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/internal/advice"
)

// TestMistakesOfAdviceAreNamed: each with its key, its value and the remedy.
func TestMistakesOfAdviceAreNamed(t *testing.T) {
	for want, change := range map[string]func(*Config){
		`advice::batch_waiting: 0 is less than 1; use a number such as 2`:                                            func(c *Config) { c.Advice.BatchWaiting = 0 },
		`advice::busy_for: 1h0m0s is not between 10s and 15m; use a duration such as 2m`:                             func(c *Config) { c.Advice.BusyFor = time.Hour },
		`advice::safety_margin: 1.5 is not between 0 and 1; use a part such as 0.05`:                                 func(c *Config) { c.Advice.SafetyMargin = 1.5 },
		`advice::standby::0: "gpu-node-08" is not a valid URL; use http://host:port`:                                 func(c *Config) { c.Advice.Standby = []string{"gpu-node-08"} },
		`classes::people::deadline: -1s is not between 0s and 24h; use a duration such as 30s, or 0s for none`:       func(c *Config) { c.Classes = map[string]ClassConfig{"people": {Deadline: -time.Second}} },
		`default_class::objective: 48h0m0s is not between 0s and 24h`:                                                func(c *Config) { c.DefaultClass.Objective = 48 * time.Hour },
		`classes::people::core: true cannot be combined with batch; remove one of them: batch is never urgent`:       func(c *Config) { c.Classes = map[string]ClassConfig{"people": {Core: true, Batch: true}} },
		`classes: a class has no name; use the name of a task class, for example people`:                             func(c *Config) { c.Classes = map[string]ClassConfig{"": {}} },
		`advice::measured::0: has neither time nor memory_mib; set one, or remove the entry`:                         func(c *Config) { c.Advice.Measured = []MeasuredConfig{{Side: 512}} },
		`advice::measured::0::side: 0 is not between 1 and 1048576; use the longer side in pixels, for example 1280`: func(c *Config) { c.Advice.Measured = []MeasuredConfig{{Time: time.Second}} },
		`advice::measured::0::time: -1s is not between 0s and 24h`:                                                   func(c *Config) { c.Advice.Measured = []MeasuredConfig{{Side: 512, Time: -time.Second}} },
		`advice::measured::0::memory_mib: -1 is not between 0 and 1073741824; use MiB, for example 3500`:             func(c *Config) { c.Advice.Measured = []MeasuredConfig{{Side: 512, MemoryMiB: -1}} },
		`advice::measured: 1001 is more than 1000; remove some`:                                                      func(c *Config) { c.Advice.Measured = make([]MeasuredConfig, 1001) },
	} {
		cfg := createDefaultConfig().(*Config)
		require.NoError(t, cfg.Validate())
		change(cfg)
		assert.ErrorContains(t, cfg.Validate(), want)
	}
}

func TestMeasurementsOfTheConfigurationCount(t *testing.T) {
	cfg := createDefaultConfig().(*Config)
	cfg.Advice.Measured = []MeasuredConfig{{Workflow: "w", Model: "m", GPU: "L40S", Side: 512, Batch: 2, Steps: 20, Time: 1800 * time.Millisecond, MemoryMiB: 3500}}
	require.NoError(t, cfg.Validate())
	assert.Equal(t, []advice.Measured{{Workflow: "w", Model: "m", GPU: "L40S", Side: 512, Batch: 2, Steps: 20, Time: 1800 * time.Millisecond, Memory: 3500 << 20}}, cfg.adviceSettings().Measured)
}

// TestBatchIsToldToComeLater, not to be smaller: no size would be admitted.
func TestBatchIsToldToComeLater(t *testing.T) {
	r := &admission.Request{Side: 1280}
	later := messages(r, &admission.Decision{Verdict: admission.Reject, Reason: admission.BatchWaits})
	assert.Equal(t, messages(r, &admission.Decision{Verdict: admission.Reject, Reason: admission.Late, Completion: time.Minute}), later)
	smaller := messages(r, &admission.Decision{Verdict: admission.Reject, Reason: admission.Late})
	assert.Equal(t, "当前系统繁忙，建议将尺寸调整为680以下以加快处理速度", smaller["zh"])
	assert.NotEqual(t, smaller, later)
	for _, side := range []int{400, 680} {
		r.Side = side
		assert.Equal(t, later, messages(r, &admission.Decision{Verdict: admission.Reject, Reason: admission.Late}), "what is recommended is no smaller")
		assert.NotContains(t, messages(r, &admission.Decision{Verdict: admission.Reject, Reason: admission.TooLarge})["zh"], "680")
	}
	r.Side = 0
	assert.Equal(t, smaller, messages(r, &admission.Decision{Verdict: admission.Reject, Reason: admission.Late}), "its size is not known")
}

// TestTheSizeOfTheTextIsThatOfTheDecision: a client that reads max_side does what a reader of the text does.
func TestTheSizeOfTheTextIsThatOfTheDecision(t *testing.T) {
	for _, c := range []struct {
		of            admission.Decision
		asked, wanted int
	}{
		{admission.Decision{Reason: admission.Late}, 1280, 680},
		{admission.Decision{Reason: admission.MemoryBusy}, 0, 680},
		{admission.Decision{Reason: admission.Late}, 640, 0},
		{admission.Decision{Reason: admission.Late, Completion: time.Minute}, 1280, 0},
		{admission.Decision{Reason: admission.Late, Completion: time.Minute, MaxSide: 512}, 1280, 512},
		{admission.Decision{Reason: admission.TooLarge}, 1280, 0}, // smaller ones may have run out of memory
		{admission.Decision{Reason: admission.TooLarge, MaxSide: 512}, 1280, 512},
		{admission.Decision{Reason: admission.Unhealthy}, 1280, 0},
		{admission.Decision{Reason: admission.BatchWaits}, 1280, 0},
	} {
		d := c.of
		d.Verdict = admission.Reject
		said := messages(&admission.Request{Side: c.asked}, &d)
		assert.Equal(t, c.wanted, d.MaxSide, "%+v", c)
		for language, text := range said {
			if c.wanted > 0 {
				assert.Contains(t, text, strconv.Itoa(c.wanted), "%s %+v", language, c)
			} else {
				assert.NotRegexp(t, `\d`, text, "%s %+v", language, c)
			}
		}
	}
}
