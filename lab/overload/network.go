// SPDX-License-Identifier: Apache-2.0

package overload

import (
	"context"
	"net"
	"net/http"
	"sync"
)

// network is a server's address in memory: a real socket would stop the clock of
// testing/synctest.
type network struct {
	accepted chan net.Conn
	closed   chan struct{}
	once     sync.Once
}

func newNetwork() *network {
	return &network{accepted: make(chan net.Conn), closed: make(chan struct{})}
}

// Accept implements net.Listener.
func (n *network) Accept() (net.Conn, error) {
	select {
	case c := <-n.accepted:
		return c, nil
	case <-n.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (n *network) Close() error {
	n.once.Do(func() { close(n.closed) })
	return nil
}

// Addr implements net.Listener.
func (n *network) Addr() net.Addr { return address{} }

type address struct{}

// Network implements net.Addr.
func (address) Network() string { return "memory" }

// String implements net.Addr.
func (address) String() string { return "192.0.2.1:8188" }

// dial connects to the server.
func (n *network) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case n.accepted <- addressed{theirs}:
		return addressed{ours}, nil
	case <-n.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// addressed is a connection with an address that can be split, as a socket's.
type addressed struct{ net.Conn }

// LocalAddr implements net.Conn.
func (addressed) LocalAddr() net.Addr { return address{} }

// RemoteAddr implements net.Conn.
func (addressed) RemoteAddr() net.Addr { return address{} }

// transport reaches the server.
func (n *network) transport() *http.Transport {
	return &http.Transport{DialContext: n.dial, MaxIdleConnsPerHost: 16, DisableCompression: true}
}

// endpoint serves a handler.
type endpoint struct {
	url       string
	server    *http.Server
	transport *http.Transport
	serving   sync.WaitGroup
}

// serving makes endpoints: in memory, or on real sockets.
type serving func(h http.Handler) (*endpoint, error)

// upstreamURL is an address in memory.
const upstreamURL = "http://comfyui.test:8188"

// inMemory serves a handler in memory.
func inMemory(h http.Handler) (*endpoint, error) {
	n := newNetwork()
	return serve(h, n, &endpoint{url: upstreamURL, transport: n.transport()}), nil
}

// onSockets serves a handler on a port of its own.
func onSockets(h http.Handler) (*endpoint, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return serve(h, listener, reach("http://"+listener.Addr().String())), nil
}

// reach is a server that somebody else runs.
func reach(url string) *endpoint {
	return &endpoint{url: url, transport: &http.Transport{DisableCompression: true}}
}

func serve(h http.Handler, listener net.Listener, e *endpoint) *endpoint {
	e.server = &http.Server{Handler: h}
	e.serving.Go(func() { _ = e.server.Serve(listener) })
	return e
}

// close ends all connections.
func (e *endpoint) close() {
	e.transport.CloseIdleConnections()
	if e.server != nil {
		_ = e.server.Close()
		e.serving.Wait()
	}
}
