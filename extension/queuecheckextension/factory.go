// SPDX-License-Identifier: Apache-2.0

package queuecheckextension

import (
	"context"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension"

	"github.com/otelcol-gpu/otelcol-gpu/extension/queuecheckextension/internal/metadata"
)

// NewFactory returns the factory of the queue_check extension.
func NewFactory() extension.Factory {
	return extension.NewFactory(metadata.Type, func() component.Config { return &Config{} },
		func(_ context.Context, set extension.Settings, cfg component.Config) (extension.Extension, error) {
			directory := cfg.(*Config).Directory
			// Here and not in Start: file_storage creates its directory as it is created.
			if err := prepare(directory); err != nil {
				return nil, err
			}
			return &checker{directory: directory, settings: set.TelemetrySettings}, nil
		}, metadata.ExtensionStability)
}
