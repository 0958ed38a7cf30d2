// SPDX-License-Identifier: Apache-2.0

package sockets

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// unacknowledged is for how long the peer of a connection has accepted nothing of what was
// sent to it (tcp(7), TCP_INFO); 0 if nothing waits.
func unacknowledged(conn net.Conn) (silent time.Duration) {
	tcp := tcpOf(conn)
	if tcp == nil {
		return 0
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			silent = silence(info)
		}
	})
	return silent
}

// silence is for how long segments have not been acknowledged, because the peer's host is
// away, or could not be sent, because the peer does not read.
func silence(info *unix.TCPInfo) time.Duration {
	switch {
	case info.Unacked > 0:
		return time.Duration(info.Last_ack_recv) * time.Millisecond
	case info.Notsent_bytes > 0:
		return time.Duration(info.Last_data_sent) * time.Millisecond
	}
	return 0
}
