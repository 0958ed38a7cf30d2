// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package reader

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakemachine"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/table"
)

var library *fakemachine.Library

func TestMain(m *testing.M) {
	library = fakemachine.Setup(fakenvml.Current)
	goleak.VerifyTestMain(m)
}

// newReader makes a reader of the first GPU of a machine, without a sampler and without
// the rows of processes.
func newReader(t *testing.T, profile string) (*Reader, *fakenvml.GPU, Request) {
	t.Helper()
	_, gpus := library.Machine(t, profile)
	sessions := nvml.NewSessions(nvml.Timing{})
	session, err := sessions.Acquire(library.Path, zap.NewNop())
	require.NoError(t, err)
	t.Cleanup(func() { sessions.Release(context.Background()) })
	require.Eventually(t, func() bool { return len(session.Snapshot().GPUs) == 1 }, 10*time.Second, time.Millisecond)
	cfg := metadata.DefaultMetricsBuilderConfig().Metrics
	cfg.HwGpuProcessMemoryUsage.Enabled, cfg.HwGpuProcessUtilization.Enabled = false, false
	gpu := session.Snapshot().GPUs[0]
	r := New(gpu, Settings{Rows: table.Rows(&cfg, false, false), SlowCall: time.Minute, Now: time.Now}, table.NewProcesses(nil, 1))
	t.Cleanup(r.Free)
	id := gpu.Identity()
	return r, gpus[0], Request{Identity: table.Identity{ID: id.UUID, Name: "gpu0", Identity: id}}
}

func read(t *testing.T, r *Reader, req Request) Reading {
	t.Helper()
	require.True(t, r.Ask(req))
	select {
	case reading := <-r.Readings():
		return reading
	case <-time.After(10 * time.Second):
		require.Fail(t, "the reading did not come")
		return Reading{}
	}
}

func TestAPassFillsTheSlicesOfAnEarlierReading(t *testing.T) {
	r, _, req := newReader(t, "h100-mig")
	first := read(t, r, req)
	second := read(t, r, req) // profiling has no values in the first pass
	assert.NotEmpty(t, first.Changes, "rows that the GPU does not support")
	assert.Empty(t, second.Changes)
	assert.Len(t, second.MIG, 4)
	req.Into = second
	third := read(t, r, req)
	require.Len(t, third.Samples, len(second.Samples))
	assert.Same(t, &second.Samples[0], &third.Samples[0], "the slice is used again")
	assert.NotSame(t, &first.Samples[0], &third.Samples[0])
	assert.Same(t, &second.RowTimes[0], &third.RowTimes[0])
}

func TestRowsThatFailAreChangesOnceAndErrorsInEachPass(t *testing.T) {
	r, gpu, req := newReader(t, "l40s")
	read(t, r, req)
	gpu.SetReturn("nvmlDeviceGetTemperature", fakenvml.Unknown)
	reading := read(t, r, req)
	require.Len(t, reading.Changes, 1)
	assert.Equal(t, "temperature", reading.Changes[0].Row.Name)
	require.Error(t, reading.Changes[0].Err)
	assert.Len(t, reading.Errors, 1)
	reading = read(t, r, req)
	assert.Empty(t, reading.Changes)
	assert.Len(t, reading.Errors, 1)
	gpu.SetReturn("nvmlDeviceGetTemperature", fakenvml.Success)
	reading = read(t, r, req)
	require.Len(t, reading.Changes, 1)
	require.NoError(t, reading.Changes[0].Err)
	assert.Empty(t, reading.Errors)
}

func TestAGPUIsLostByOneErrorOrIfEveryCallFails(t *testing.T) {
	r, gpu, req := newReader(t, "l40s")
	read(t, r, req)
	gpu.SetLost(true)
	assert.Equal(t, nvml.Lost, nvml.KindOf(read(t, r, req).Lost))
	gpu.SetLost(false)
	require.NoError(t, read(t, r, req).Lost)
	gpu.FailEveryCall(fakenvml.Unknown)
	reading := read(t, r, req)
	require.ErrorIs(t, reading.Lost, errEveryCallFails)
	assert.Empty(t, reading.Changes)
}

func TestADisabledRowIsReadAgainAfterRelearning(t *testing.T) {
	r, gpu, req := newReader(t, "l40s")
	gpu.SetReturn("nvmlDeviceGetTemperature", fakenvml.NotSupported)
	read(t, r, req)
	calls := gpu.Calls("nvmlDeviceGetTemperature")
	gpu.SetReturn("nvmlDeviceGetTemperature", fakenvml.Success)
	read(t, r, req)
	assert.Equal(t, calls, gpu.Calls("nvmlDeviceGetTemperature"))
	req.Relearn = true
	read(t, r, req)
	assert.Equal(t, calls+1, gpu.Calls("nvmlDeviceGetTemperature"))
}
