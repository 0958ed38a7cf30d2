// SPDX-License-Identifier: Apache-2.0

package queuecheckextension

import (
	"go.opentelemetry.io/collector/confmap"

	"github.com/otelcol-gpu/otelcol-gpu/internal/configkeys"
)

// Config is the configuration of the extension.
type Config struct {
	// Directory is the directory of the file_storage extension that is checked.
	Directory string `mapstructure:"directory"`
}

// Unmarshal refuses what [configkeys.Unmarshal] refuses.
func (c *Config) Unmarshal(conf *confmap.Conf) error { return configkeys.Unmarshal(conf, c) }

// Validate reports every mistake with its key and the remedy.
func (c *Config) Validate() error {
	var p configkeys.Problems
	p.AddIf(c.Directory == "", "directory", nil, "is required", "use the directory of the file_storage extension")
	return p.Err()
}
