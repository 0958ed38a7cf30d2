// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shippedSettings have the repository as their root, with scripts/tool.sh replaced by a script.
func shippedSettings(t *testing.T, tool string) *settings {
	t.Helper()
	repository, err := figure.Root()
	require.NoError(t, err)
	s := &settings{root: t.TempDir(), folder: t.TempDir()}
	require.NoError(t, os.Symlink(filepath.Join(repository, "deploy"), filepath.Join(s.root, "deploy")))
	require.NoError(t, os.Mkdir(filepath.Join(s.root, "scripts"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(s.root, "scripts", "tool.sh"), []byte("#!/bin/bash\n"+tool), 0o755))
	return s
}

// TestWhatIsStillBeingBuiltIsStopped has a build that would last for hours, in a process below
// the script.
func TestWhatIsStillBeingBuiltIsStopped(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	c, err := shippedSettings(t, "sleep 10000 & echo $! >"+file+"; wait\n").newCompanions("http://127.0.0.1:1")
	require.NoError(t, err)
	c.start(t.Context())
	pid := 0
	require.Eventually(t, func() bool {
		text, _ := os.ReadFile(file)
		pid, _ = strconv.Atoi(strings.TrimSpace(string(text)))
		return pid > 0
	}, 10*time.Second, 10*time.Millisecond)
	begin := time.Now()
	c.end()
	assert.Less(t, time.Since(begin), 10*time.Second, "the tool would build for hours")
	// A killed process of this group stays a zombie until init reaps it.
	require.Eventually(t, func() bool {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		return err != nil || strings.Contains(string(stat), ") Z ") || syscall.Kill(pid, 0) != nil
	}, 5*time.Second, 10*time.Millisecond, "the compiler ends, too")
}

// TestAlertmanagerGroupsAsShippedAndSendsToNobody: who types `make run` has none of the
// secrets, and sees which alerts would have been one message.
func TestAlertmanagerGroupsAsShippedAndSendsToNobody(t *testing.T) {
	s := shippedSettings(t, "")
	path, err := s.alertmanagerConfig()
	require.NoError(t, err)
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	for _, kept := range []string{"group_by:", "inhibit_rules:", "alertname=\"GPULost\"", "receiver: critical", "name: critical"} {
		assert.Contains(t, string(text), kept)
	}
	for _, left := range []string{"_configs", "secrets", "smtp", "templates", "api_url"} {
		assert.NotContains(t, string(text), left)
	}
}
