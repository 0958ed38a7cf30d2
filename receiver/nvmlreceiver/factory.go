// SPDX-License-Identifier: Apache-2.0

package nvmlreceiver

import (
	"go.opentelemetry.io/collector/receiver"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

// NewFactory returns the factory of the nvml receiver. The receivers that one
// factory creates share one NVML session and one worker per GPU.
func NewFactory() receiver.Factory {
	metrics, logs := newCreators()
	return receiver.NewFactory(metadata.Type, createDefaultConfig,
		receiver.WithMetrics(metrics, metadata.MetricsStability),
		receiver.WithLogs(logs, metadata.LogsStability))
}
