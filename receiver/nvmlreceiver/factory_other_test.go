// SPDX-License-Identifier: Apache-2.0

//go:build !linux || !cgo

package nvmlreceiver

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

func TestWithoutCgoTheReceiverRefusesToStart(t *testing.T) {
	f := NewFactory()
	_, err := f.CreateMetrics(context.Background(), receivertest.NewNopSettings(metadata.Type), f.CreateDefaultConfig(), consumertest.NewNop())
	require.ErrorContains(t, err, "cgo_enabled: true")
}
