// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package comfyuireceiver

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakemachine"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
)

// testLibrary is the test library: a process keeps the state that it opened first.
var testLibrary = sync.OnceValue(func() *fakemachine.Library { return fakemachine.Setup(fakenvml.Current) })

// TestServersGPUThatGivesNoAnswerStaysItsGPU: a GPU that is lost or hangs while a prompt runs
// was used by it until then, and a search of the server's GPUs meanwhile must not leave it out.
func TestServersGPUThatGivesNoAnswerStaysItsGPU(t *testing.T) {
	library := testLibrary()
	_, all := library.Machine(t, "l40s", "l40s", "l40s")
	const pid = 4321
	holding := fakenvml.Process{PID: pid, Memory: 1 << 30}
	for _, gpu := range all[:2] {
		gpu.SetProcesses(holding)
	}
	all[2].SetProcesses()
	timing := nvml.Timing{Rescan: 20 * time.Millisecond, Probe: 500 * time.Millisecond, Close: 500 * time.Millisecond}
	g := &gpuProcesses{library: library.Path, log: zap.NewNop(), sessions: nvml.NewSessions(timing)}
	require.True(t, g.open())
	defer g.close()
	g.wait(10 * time.Second)
	both := []string{all[0].UUID(), all[1].UUID()}
	require.Equal(t, both, g.of(t.Context(), pid))

	all[1].SetLost(true)
	require.Eventually(t, func() bool {
		for _, gpu := range g.session.Snapshot().GPUs {
			if gpu.Err() != nil {
				return true
			}
		}
		return false
	}, 10*time.Second, 10*time.Millisecond)
	assert.Equal(t, both, g.of(t.Context(), pid), "the lost one, too")
	assert.Equal(t, both, g.of(t.Context(), pid), "and again")
	assert.Empty(t, g.of(t.Context(), pid+1), "another process was not seen on it")
	assert.Equal(t, both[:1], g.of(t.Context(), pid), "and what was seen before it is another's")

	before := g.last[both[1]]
	before.id, before.at = both[1], time.Now().Add(-maxUnanswered)
	g.last[both[1]] = before
	assert.Equal(t, both[:1], g.of(t.Context(), pid), "not for ever")
}
