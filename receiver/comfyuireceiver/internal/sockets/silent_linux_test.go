// SPDX-License-Identifier: Apache-2.0

package sockets

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestAClientThatDoesNotReadIsSilent(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = listener.Close() }()
	client, err := net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	defer func() { _ = client.Close() }()
	server, err := listener.Accept()
	require.NoError(t, err)
	defer func() { _ = server.Close() }()

	_, err = server.Write([]byte("a frame"))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return unacknowledged(server) == 0 }, 10*time.Second, time.Millisecond, "its host has it")

	require.NoError(t, server.SetWriteDeadline(time.Now().Add(200*time.Millisecond)))
	for err == nil { // until neither side has room
		_, err = server.Write(make([]byte, 1<<20))
	}
	require.Eventually(t, func() bool { return unacknowledged(server) >= 200*time.Millisecond }, 10*time.Second, time.Millisecond)
	assert.Zero(t, unacknowledged(client), "nothing was sent in this direction")
}

func TestSilenceLastsSinceTheLastAcknowledgement(t *testing.T) {
	assert.Zero(t, silence(&unix.TCPInfo{Last_ack_recv: 60_000, Last_data_sent: 60_000}), "nothing waits")
	assert.Equal(t, time.Minute, silence(&unix.TCPInfo{Unacked: 1, Last_ack_recv: 60_000, Last_data_sent: 1}), "sent again and again")
	assert.Equal(t, time.Minute, silence(&unix.TCPInfo{Notsent_bytes: 1, Last_ack_recv: 1, Last_data_sent: 60_000}), "its window is closed")
}

func TestSilentClientsAreListedByTheHub(t *testing.T) {
	e := newEnv(4)
	s := e.client(t, "a")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = listener.Close() }()
	peer, err := net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	defer func() { _ = peer.Close() }()
	conn, err := listener.Accept()
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	s.mu.Lock()
	s.client = conn
	s.mu.Unlock()
	assert.Empty(t, e.Silent(200*time.Millisecond, 4))
	require.NoError(t, conn.SetWriteDeadline(time.Now().Add(50*time.Millisecond)))
	for err == nil {
		_, err = conn.Write(make([]byte, 1<<20))
	}
	e.now = time.Now()
	require.Eventually(t, func() bool { return len(e.Silent(200*time.Millisecond, 4)) == 1 }, 10*time.Second, time.Millisecond)
	assert.WithinDuration(t, e.now, e.Silent(200*time.Millisecond, 4)[0], 2*time.Second)
	assert.Empty(t, e.Silent(0, 0))
}
