// SPDX-License-Identifier: Apache-2.0

// Package alerts asks Alertmanager or Prometheus for the alerts that fire.
package alerts

import (
	"time"

	"go.opentelemetry.io/collector/config/confighttp"

	"github.com/otelcol-gpu/otelcol-gpu/internal/configkeys"
)

// The programs that can be asked. A vmalert answers as Prometheus does.
const (
	Alertmanager = "alertmanager"
	Prometheus   = "prometheus"
)

// minInterval bounds the load that the questions put on the server.
const minInterval = time.Second

// Config says whom to ask for alerts.
type Config struct {
	// Client is the server: its endpoint with TLS, headers and authentication. Nobody is
	// asked while the endpoint is empty, which is the default. Default of timeout: 5s.
	Client confighttp.ClientConfig `mapstructure:",squash"`

	// Source is what the endpoint is: alertmanager, which knows what is silenced and
	// inhibited, or prometheus, for Prometheus and vmalert. Default: alertmanager.
	Source string `mapstructure:"source"`

	// Interval is how often it is asked. Default: 15s.
	Interval time.Duration `mapstructure:"interval"`

	// AllHosts shows alerts of other hosts, too: those whose label instance names another one.
	// Default: false.
	AllHosts bool `mapstructure:"all_hosts"`
}

// DefaultConfig is disabled.
func DefaultConfig() Config {
	client := confighttp.NewDefaultClientConfig()
	client.Timeout = 5 * time.Second
	return Config{Client: client, Source: Alertmanager, Interval: 15 * time.Second}
}

// IsEnabled reports whether anybody is asked.
func (c *Config) IsEnabled() bool { return c.Client.Endpoint != "" }

// Check adds the mistakes of the configuration, which has the given key.
func (c *Config) Check(p *configkeys.Problems, key string) {
	if !c.IsEnabled() {
		return
	}
	p.AddIf(!configkeys.IsHTTP(c.Client.Endpoint),
		key+"::endpoint", c.Client.Endpoint, "is not a valid URL", "use http://host:port, for example http://127.0.0.1:9093")
	p.AddIf(c.Source != Alertmanager && c.Source != Prometheus, key+"::source", c.Source, "is not a valid source", "use alertmanager or prometheus")
	p.AddIf(c.Interval < minInterval, key+"::interval", c.Interval, "is shorter than 1s", "use a duration of at least 1s, for example 15s")
}
