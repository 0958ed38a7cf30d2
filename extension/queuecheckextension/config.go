// SPDX-License-Identifier: Apache-2.0

package queuecheckextension

import (
	"errors"
	"io/fs"
	"os"

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
	if c.Directory != "" {
		// What is not there yet is created with the extension.
		info, err := os.Stat(c.Directory)
		switch {
		case err == nil && !info.IsDir():
			p.Add("directory", c.Directory, "is a file", "set a directory that the collector's user can write ("+inReadyConfigurations+")")
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			p.Add("directory", c.Directory, "cannot be accessed: "+err.Error(), "set a directory that the collector's user can write ("+inReadyConfigurations+")")
		}
	}
	return p.Err()
}
