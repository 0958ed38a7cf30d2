// SPDX-License-Identifier: Apache-2.0

//go:build linux

package comfyuireceiver

import (
	"net"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestProcessThatListensOnAPortIsFound(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		listener, err := net.Listen("tcp", address)
		if err != nil && address == "[::1]:0" {
			continue // a machine without IPv6
		}
		require.NoError(t, err)
		port := uint64(listener.Addr().(*net.TCPAddr).Port)
		assert.Equal(t, os.Getpid(), processOn("/proc", port, 0))
		assert.Equal(t, os.Getpid(), processOn("/proc", port, os.Getpid()))
		require.NoError(t, listener.Close())
		assert.Zero(t, processOn("/proc", port, os.Getpid()))
	}
	assert.Zero(t, processOn(t.TempDir(), 1, 0))
}
