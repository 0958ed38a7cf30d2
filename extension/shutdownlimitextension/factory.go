// SPDX-License-Identifier: Apache-2.0

package shutdownlimitextension

import (
	"context"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension"

	"github.com/otelcol-gpu/otelcol-gpu/extension/shutdownlimitextension/internal/metadata"
)

// NewFactory returns the factory of the shutdown_limit extension.
func NewFactory() extension.Factory {
	return extension.NewFactory(metadata.Type, func() component.Config { return &Config{After: 2 * time.Second} },
		func(_ context.Context, _ extension.Settings, cfg component.Config) (extension.Extension, error) {
			return newLimit(cfg.(*Config).After), nil
		}, metadata.ExtensionStability)
}
