// SPDX-License-Identifier: Apache-2.0

package queuecheckextension

import "errors"

// Config is the configuration of the extension.
type Config struct {
	// Directory is the directory of the file_storage extension that is checked.
	Directory string `mapstructure:"directory"`
}

// Validate reports mistakes with their key and the remedy.
func (c *Config) Validate() error {
	if c.Directory == "" {
		return errors.New("directory: is empty: give the directory of the file_storage extension")
	}
	return nil
}
