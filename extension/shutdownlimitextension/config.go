// SPDX-License-Identifier: Apache-2.0

package shutdownlimitextension

import (
	"time"

	"go.opentelemetry.io/collector/confmap"

	"github.com/otelcol-gpu/otelcol-gpu/internal/configkeys"
)

// Config is the configuration of the extension.
type Config struct {
	// After is how long requests may continue once the collector has begun to shut down.
	After time.Duration `mapstructure:"after"`
}

// Unmarshal refuses what [configkeys.Unmarshal] refuses.
func (c *Config) Unmarshal(conf *confmap.Conf) error { return configkeys.Unmarshal(conf, c) }

// Validate reports every mistake with its key and the remedy.
func (c *Config) Validate() error {
	var p configkeys.Problems
	p.AddIf(c.After <= 0, "after", c.After, "is not a positive duration", "use 2s, or leave the key out")
	return p.Err()
}
