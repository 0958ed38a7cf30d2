// SPDX-License-Identifier: Apache-2.0

package overload

import (
	"net"
	"net/http"
	"sync"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/comfyreplay"
)

// network is a server's address in memory: a real socket would stop the clock of
// testing/synctest.
type network struct{ *comfyreplay.Pipes }

// Accept implements net.Listener.
func (n network) Accept() (net.Conn, error) {
	conn, err := n.Pipes.Accept()
	if err != nil {
		return nil, err
	}
	return addressed{conn}, nil
}

// addressed is a connection with a client's address that can be split, as a socket's.
type addressed struct{ net.Conn }

// RemoteAddr implements net.Conn.
func (addressed) RemoteAddr() net.Addr { return address{} }

type address struct{}

// Network implements net.Addr.
func (address) Network() string { return "memory" }

// String implements net.Addr.
func (address) String() string { return "192.0.2.1:8188" }

// transport reaches the server.
func (n network) transport() *http.Transport {
	return &http.Transport{DialContext: n.Dial, MaxIdleConnsPerHost: 16, DisableCompression: true}
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
	n := network{comfyreplay.NewPipes()}
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
