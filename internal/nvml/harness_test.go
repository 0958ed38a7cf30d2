// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvml

import (
	"context"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakemachine"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
)

// childVariant tells a child process which variant of the library to load: a
// process keeps its first one, so each variant has a process of its own.
const childVariant = "NVMLLIB_TEST_VARIANT"

var library *fakemachine.Library

func TestMain(m *testing.M) {
	variant := fakenvml.Variant(os.Getenv(childVariant))
	if variant == "" {
		variant = fakenvml.Current
	}
	library = fakemachine.Setup(variant)
	goleak.VerifyTestMain(m)
}

// inChild runs one test of this binary in a process of its own and reports
// whether this is that process.
func inChild(t *testing.T, variant fakenvml.Variant, environment ...string) bool {
	t.Helper()
	if os.Getenv(childVariant) == string(variant) {
		return true
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(append(os.Environ(), childVariant+"="+string(variant)), environment...)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "the process for variant %s ended with:\n%s", variant, out)
	require.Contains(t, string(out), "--- PASS: "+t.Name(), "the child ran no test:\n%s", out)
	return false
}

var fast = Timing{Rescan: 20 * time.Millisecond, Probe: 300 * time.Millisecond, Close: 300 * time.Millisecond}

func acquire(t *testing.T, path string) *Session {
	t.Helper()
	sessions := NewSessions(fast)
	s, err := sessions.Acquire(path, zap.NewNop())
	require.NoError(t, err)
	t.Cleanup(func() { sessions.Release(context.Background()) })
	return s
}

func waitFor(t *testing.T, s *Session, holds func(Snapshot) bool) Snapshot {
	t.Helper()
	require.Eventually(t, func() bool { return holds(s.Snapshot()) }, 10*time.Second, 5*time.Millisecond)
	return s.Snapshot()
}

// on runs a function on the GPU's worker and waits for it.
func on(t *testing.T, c *GPU, do func(Device)) {
	t.Helper()
	done := make(chan struct{})
	require.True(t, c.Submit(func() {
		defer close(done)
		do(c.Device())
	}))
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("the GPU's worker did not come to it")
	}
}
