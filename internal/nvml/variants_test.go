// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvml

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakemachine"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
)

func TestEveryFunctionTheLibraryLacksIsAnOrdinaryError(t *testing.T) {
	if !inChild(t, fakenvml.Bare) {
		return
	}
	library.Machine(t, "h100")
	s := acquire(t, library.Path)
	snapshot := waitFor(t, s, func(s Snapshot) bool { return s.Enumerated && len(s.GPUs) == 1 })
	asked := 0
	on(t, snapshot.GPUs[0], func(d Device) {
		v := reflect.ValueOf(d)
		for i := range v.NumMethod() {
			name, method := v.Type().Method(i).Name, v.Method(i)
			last := method.Type().NumOut() - 1
			if name == "UUID" || last < 0 || method.Type().Out(last) != reflect.TypeFor[error]() {
				continue // there, or not a call
			}
			arguments := make([]reflect.Value, method.Type().NumIn())
			for j := range arguments {
				arguments[j] = reflect.Zero(method.Type().In(j))
				if method.Type().In(j) == reflect.TypeFor[[]FieldValue]() {
					arguments[j] = reflect.ValueOf(make([]FieldValue, 1))
				}
			}
			results := method.Call(arguments)
			err, _ := results[last].Interface().(error)
			if assert.Error(t, err, name) {
				assert.Equal(t, Missing, KindOf(err), "%s: %v", name, err)
			}
			asked++
		}
	})
	assert.Greater(t, asked, 30)
}

func TestDriver470IsReadThroughItsOlderFunctions(t *testing.T) {
	if !inChild(t, fakenvml.Driver470) {
		return
	}
	library.Machine(t, "rtx-2080-super")
	s := acquire(t, library.Path)
	snapshot := waitFor(t, s, func(s Snapshot) bool { return s.Enumerated && len(s.GPUs) == 1 })
	on(t, snapshot.GPUs[0], func(d Device) {
		_, err := d.MemoryInfo()
		assert.Equal(t, Missing, KindOf(err))
		m, err := d.MemoryInfoV1()
		require.NoError(t, err)
		assert.EqualValues(t, 8192<<20, m.Total)
		assert.EqualValues(t, (211+400)<<20, m.Used, "the reserve counts as used")
		reasons, err := d.ThrottleReasons()
		require.NoError(t, err)
		assert.EqualValues(t, 1, reasons)
		_, err = d.FanCount()
		assert.Equal(t, Missing, KindOf(err))
	})
}

func TestDriver535HasAllThatIsRead(t *testing.T) {
	if !inChild(t, fakenvml.Driver535) {
		return
	}
	library.Machine(t, "h100")
	s := acquire(t, library.Path)
	snapshot := waitFor(t, s, func(s Snapshot) bool { return s.Enumerated && len(s.GPUs) == 1 })
	on(t, snapshot.GPUs[0], func(d Device) {
		m, err := d.MemoryInfo()
		require.NoError(t, err)
		assert.EqualValues(t, 81559<<20, m.Total)
	})
}

// NVIDIA's own libraries: without a driver they must load, return an error, and never
// end the process. The path is handed to the child in the environment.
const childLibrary = "NVMLLIB_TEST_LIBRARY"

func TestNvidiasOwnLibrariesWithoutADriver(t *testing.T) {
	if path := os.Getenv(childLibrary); path != "" {
		s := acquire(t, path)
		snapshot := waitFor(t, s, func(s Snapshot) bool { return s.Err != nil })
		assert.Equal(t, Absent, snapshot.State)
		assert.Equal(t, DriverGone, KindOf(snapshot.Err), snapshot.Err)
		assert.True(t, s.lib.Has("nvmlDeviceGetCount_v2"))
		assert.False(t, s.lib.Has("nvmlDeviceNoSuchFunction"))
		assert.False(t, s.lib.Simulated())
		return
	}
	for _, driver := range []string{"535", "470"} {
		path := fakemachine.NvidiaLibrary(t, driver)
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), childLibrary+"="+path)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "driver %s:\n%s", driver, out)
	}
}

func TestTheLibraryIsSearchedForWhereWSL2HasIt(t *testing.T) {
	assert.Contains(t, usualPlaces, "/usr/lib/wsl/lib/libnvidia-ml.so.1")
}

func TestTheLoadersReasonIsLogged(t *testing.T) {
	file := filepath.Join(t.TempDir(), "libnvidia-ml.so.1")
	for reason, content := range map[string]string{"cannot open shared object file": "", "file too short": "no library"} {
		if content != "" {
			require.NoError(t, os.WriteFile(file, []byte(content), 0o600))
		}
		core, logs := observer.New(zap.WarnLevel)
		sessions := NewSessions(fast)
		_, err := sessions.Acquire(file, zap.New(core))
		require.NoError(t, err)
		require.Eventually(t, func() bool { return logs.FilterMessageSnippet("Cannot load the NVML library").Len() == 1 }, 5*time.Second, time.Millisecond)
		assert.Contains(t, logs.All()[0].ContextMap()["reason"], reason)
		sessions.Release(context.Background())
		_ = os.Remove(file)
	}
}
