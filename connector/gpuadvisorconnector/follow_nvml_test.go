// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package gpuadvisorconnector

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml/gpuevents"
)

// TestMemoryBetweenTwoScrapesIsShown: what a sampler of the process reads counts.
func TestMemoryBetweenTwoScrapesIsShown(t *testing.T) {
	r := newRig(t, nil)
	require.NoError(t, r.metrics.ConsumeMetrics(t.Context(), scraped(100, false)))
	require.Eventually(t, func() bool {
		gpuevents.OfProcess().MemoryRead(gpuID, 900, time.Now())
		return r.shown().GPUs[0].Memory.Used == 900
	}, 10*time.Second, 10*time.Millisecond)
}
