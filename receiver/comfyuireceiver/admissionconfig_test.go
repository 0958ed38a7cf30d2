// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
)

// TestMistakesOfAdmissionAreNamed: each with its key, its value and the remedy.
func TestMistakesOfAdmissionAreNamed(t *testing.T) {
	id := component.MustNewID("gpuadvisor")
	for want, change := range map[string]func(*Config){
		`admission::mode: "block" is not a valid mode; use observe or enforce`: func(c *Config) { c.Admission.Mode = "block" },
		`admission::advisor: is missing, which enforce needs; name the gpuadvisor connector, for example gpuadvisor, or set admission::remote::endpoint`: func(c *Config) {
			c.Admission.Mode = modeEnforce
		},
		`has no effect in poll mode; remove it, or set mode: proxy`: func(c *Config) { c.Mode, c.Admission.Advisor = modePoll, &id },
		`admission::remote::endpoint: "http://node:8890" has no effect in poll mode; remove it, or set mode: proxy`: func(c *Config) {
			c.Mode, c.Admission.Remote.Client.Endpoint = modePoll, "http://node:8890"
		},
		`admission::remote::endpoint: "http://node:8890" cannot be combined with admission::advisor; remove one of them`: func(c *Config) {
			c.Admission.Advisor, c.Admission.Remote.Client.Endpoint = &id, "http://node:8890"
		},
		`admission::remote::endpoint: "node:8890" is not a valid URL; use http://host:port, for example http://gpu-node-07:8890`: func(c *Config) {
			c.Admission.Remote.Client.Endpoint = "node:8890"
		},
		`admission::timeout: 2s is not between 1ms and 1s; use a duration such as 20ms`: func(c *Config) { c.Admission.Timeout = 2 * time.Second },
		`admission::hold::timeout: 1m0s is not between 0s and 50s`:                      func(c *Config) { c.Admission.Hold.Timeout = time.Minute },
		`admission::hold::prompts: -1 is negative`:                                      func(c *Config) { c.Admission.Hold.Prompts = -1 },
		`admission::hold::bytes: 67108864 is more than half of limits::body_bytes`: func(c *Config) {
			c.Admission.Mode, c.Admission.Advisor, c.Admission.Hold.Bytes = modeEnforce, &id, 64<<20
		},
		`admission::rate_limits::0::per: "user" is not a valid choice; use address or header`: func(c *Config) {
			c.Admission.RateLimits = []RateLimitConfig{{Per: "user", RequestsPerMinute: 1}}
		},
		`admission::rate_limits::0::header: "" is not a valid name of a header`: func(c *Config) {
			c.Admission.RateLimits = []RateLimitConfig{{Per: perHeader, RequestsPerMinute: 1}}
		},
		`admission::rate_limits::0::requests_per_minute: 0 is not between 0 and 1000000`: func(c *Config) { c.Admission.RateLimits = []RateLimitConfig{{}} },
		`admission::rate_limits::0::task_class: "poeple" is not a task class; use people, buildings, other, or add it to task_classes`: func(c *Config) {
			c.Admission.Mode, c.Admission.Advisor = modeEnforce, &id
			c.Admission.RateLimits = []RateLimitConfig{{TaskClass: "poeple", RequestsPerMinute: 1}}
		},
		`admission::trusted_proxies::0: "10.0.0.1" is not a valid network; use one such as 10.0.0.0/8`: func(c *Config) {
			c.Admission.TrustedProxies = []string{"10.0.0.1"}
		},
	} {
		cfg := createDefaultConfig().(*Config)
		require.NoError(t, cfg.Validate())
		change(cfg)
		assert.ErrorContains(t, cfg.Validate(), want)
	}
}
