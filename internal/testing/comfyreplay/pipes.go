// SPDX-License-Identifier: Apache-2.0

package comfyreplay

import (
	"context"
	"net"
	"sync"
)

// Pipes is a network in memory: whoever waits on it waits in the bubble of a test with
// virtual time (testing/synctest). It is the listener of one server.
type Pipes struct {
	dialled chan net.Conn
	closed  chan struct{}
	once    sync.Once
}

// NewPipes makes a network.
func NewPipes() *Pipes { return &Pipes{dialled: make(chan net.Conn), closed: make(chan struct{})} }

// Dial connects to the server; it is a http.Transport's DialContext.
func (n *Pipes) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case n.dialled <- far:
		return near, nil
	case <-n.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept implements net.Listener.
func (n *Pipes) Accept() (net.Conn, error) {
	select {
	case c := <-n.dialled:
		return c, nil
	case <-n.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (n *Pipes) Close() error {
	n.once.Do(func() { close(n.closed) })
	return nil
}

// Addr implements net.Listener.
func (*Pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }
