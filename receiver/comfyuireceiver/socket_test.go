// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// rawServer upgrades by hand, so that tests see and send bytes.
type rawServer struct {
	*httptest.Server
	conns chan net.Conn
	posts http.HandlerFunc

	mu  sync.Mutex
	all []net.Conn
}

func newRawServer(t testing.TB) *rawServer {
	t.Helper()
	s := &rawServer{conns: make(chan net.Conn, 10)}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("X-Forwarded-For") == "":
			w.WriteHeader(http.StatusNotFound) // the receiver's own questions
		case r.Header.Get("Upgrade") == "":
			s.posts(w, r)
		default:
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-Websocket-Accept: x\r\n\r\n")
			s.mu.Lock()
			s.all = append(s.all, conn)
			s.mu.Unlock()
			s.conns <- conn
		}
	}))
	t.Cleanup(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, c := range s.all {
			_ = c.Close()
		}
		s.Close()
	})
	return s
}

// rawClient upgrades by hand through the proxy.
func rawClient(t testing.TB, r *rig, query string) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", r.address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	_, err = fmt.Fprintf(conn, "GET /ws?%s HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n", query)
	require.NoError(t, err)
	from := bufio.NewReader(conn)
	response, err := http.ReadResponse(from, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusSwitchingProtocols, response.StatusCode)
	return conn, from
}

func TestFramesPassByteForByteInBothDirections(t *testing.T) {
	s := newRawServer(t)
	r := newRig(t, s.URL, nil)
	_, fromProxy := rawClient(t, r, "clientId=a")
	server := <-s.conns
	noise := make([]byte, 1<<20)
	_, _ = rand.Read(noise)
	large := append([]byte{0x82, 127, 0, 0, 0, 0, 0, 0x10, 0, 0}, noise...)
	down := bytes.Join([][]byte{
		{0x89, 4, 'p', 'i', 'n', 'g'},                       // ping
		{0x01, 3, 'a', 'b', 'c'}, {0x8A, 0}, {0x80, 1, 'd'}, // fragments with a pong between
		large,                       // a megabyte
		{0xF2, 2, 1, 2},             // reserved bits that were not negotiated
		{0x81, 126, 0, 2, '{', '}'}, // a length in more bytes than it needs
		{0x88, 9, 0x0F, 0xA3, 'g', 'o', 'o', 'd', 'b', 'y', 'e'}, // close 4003
	}, nil)
	_, err := server.Write(down)
	require.NoError(t, err)
	got := make([]byte, len(down))
	_, err = io.ReadFull(fromProxy, got)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(down, got), "server to client")

	client, _ := rawClient(t, r, "clientId=b")
	server = <-s.conns
	up := []byte{
		0x81, 0x82, 1, 2, 3, 4, 'a' ^ 1, 'b' ^ 2, // masked text
		0x8A, 0x80, 9, 9, 9, 9, // pong
		0x88, 0x82, 0, 0, 0, 1, 0x03, 0xE9, // close 1001
	}
	_, err = client.Write(up)
	require.NoError(t, err)
	got = make([]byte, len(up))
	_, err = io.ReadFull(server, got)
	require.NoError(t, err)
	assert.Equal(t, up, got, "client to server")
}

func TestFrameOf50MBPassesWithoutBeingKept(t *testing.T) {
	s := newRawServer(t)
	r := newRig(t, s.URL, nil)
	_, from := rawClient(t, r, "clientId=a")
	server := <-s.conns
	const size = 50 << 20
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	go func() {
		_, _ = server.Write([]byte{0x81, 127, 0, 0, 0, 0, 0x03, 0x20, 0, 0}) // text, and too long to read
		_, _ = io.CopyN(server, zeros{}, size)
		_, _ = server.Write([]byte{0x81, 2, '{', '}'})
	}()
	n, err := io.CopyN(io.Discard, from, 10+size)
	require.NoError(t, err)
	require.EqualValues(t, 10+size, n)
	next := make([]byte, 4)
	_, err = io.ReadFull(from, next)
	require.NoError(t, err)
	assert.Equal(t, []byte{0x81, 2, '{', '}'}, next)
	runtime.ReadMemStats(&after)
	assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(size/2))
	assert.Equal(t, map[string]int64{"": 1}, counted(t, r.telemetry, "frames.unparsed"))
}

// text is a server's text frame.
func text(s string) []byte {
	b := []byte{0x81, 126, byte(len(s) >> 8), byte(len(s))}
	if len(s) > 0xFFFF {
		b = binary.BigEndian.AppendUint64([]byte{0x81, 127}, uint64(len(s)))
	}
	return append(b, s...)
}

func TestSocketStaysOpenToTheServerUntilThePromptsOfALeftClientHaveEnded(t *testing.T) {
	for name, leave := range map[string]func(net.Conn){
		"closes":     func(c net.Conn) { _, _ = c.Write([]byte{0x88, 0x82, 0, 0, 0, 0, 0x03, 0xE8}) },
		"disappears": func(c net.Conn) { _ = c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			s := newRawServer(t)
			s.posts = func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPost {
					_, _ = io.WriteString(w, `{"prompt_id": "p1", "number": 1, "node_errors": {}}`)
				}
			}
			r := newRig(t, s.URL, nil)
			client, from := rawClient(t, r, "clientId=a")
			server := <-s.conns
			response, err := http.Post(r.base+"/prompt", "application/json", strings.NewReader(`{"prompt": {"2": {"class_type": "A", "inputs": {}}}, "client_id": "a"}`))
			require.NoError(t, err)
			require.NoError(t, response.Body.Close())
			leave(client)
			if name == "closes" {
				answer := make([]byte, 4)
				_, err := io.ReadFull(from, answer)
				require.NoError(t, err)
				assert.Equal(t, []byte{0x88, 2, 0x03, 0xE8}, answer, "the client's close is answered")
			}
			require.Eventually(t, func() bool { _, kept := r.hub.Counts(); return kept == 1 }, 10*time.Second, time.Millisecond)

			// The same id comes again. The old socket must not be closed now: the server
			// would forget the id, and the new one would hear nothing.
			second, _ := rawClient(t, r, "clientId=a")
			newer := <-s.conns
			_, err = newer.Write(bytes.Join([][]byte{
				text(`{"type": "execution_start", "data": {"prompt_id": "p1", "timestamp": 1}}`),
				text(`{"type": "executing", "data": {"node": "2", "prompt_id": "p1"}}`),
				text(`{"type": "execution_success", "data": {"prompt_id": "p1", "timestamp": 1}}`),
			}, nil))
			require.NoError(t, err)
			require.Eventually(t, func() bool { return len(r.traces.AllTraces()) == 1 }, 10*time.Second, time.Millisecond)
			assert.Equal(t, "success", spansOf(t, r.traces.AllTraces()[0])[0].Attributes["comfyui.prompt.outcome"])
			_, kept := r.hub.Counts()
			assert.Equal(t, 1, kept, "still kept, since the id has a client")

			require.NoError(t, second.Close())
			require.NoError(t, server.SetReadDeadline(time.Now().Add(10*time.Second)))
			farewell, err := io.ReadAll(server)
			require.NoError(t, err)
			assert.Equal(t, byte(0x88), farewell[0], "the server gets a close frame")
			require.Eventually(t, func() bool { live, kept := r.hub.Counts(); return live+kept == 0 }, 10*time.Second, time.Millisecond)
		})
	}
}

func TestServerThatVanishesEndsTheClientsSocket(t *testing.T) {
	s := newRawServer(t)
	r := newRig(t, s.URL, nil)
	_, from := rawClient(t, r, "clientId=a")
	server := <-s.conns
	require.NoError(t, server.Close())
	_, err := from.ReadByte()
	assert.ErrorIs(t, err, io.EOF)
}

func TestSlowClientHoldsTheServerBackAndNotTheMemory(t *testing.T) {
	s := newRawServer(t)
	r := newRig(t, s.URL, nil)
	_, from := rawClient(t, r, "clientId=a")
	server := <-s.conns
	require.NoError(t, server.SetWriteDeadline(time.Now().Add(500*time.Millisecond)))
	chunk := append([]byte{0x82, 127, 0, 0, 0, 0, 0, 0x10, 0, 0}, make([]byte, 1<<20)...)
	sent := 0
	for range 200 {
		n, err := server.Write(chunk)
		sent += n
		if err != nil {
			break
		}
	}
	assert.Less(t, sent, 100<<20, "the server has to wait for the client")
	_, _ = io.CopyN(io.Discard, from, 1000)
}

// TestWorkflowOf10000NodesIsFollowedToItsEnd: each node is announced, and the
// states of all of them come in one frame.
func TestWorkflowOf10000NodesIsFollowedToItsEnd(t *testing.T) {
	const nodes = 10_000
	s := newRawServer(t)
	s.posts = func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, `{"prompt_id": "p", "number": 1, "node_errors": {}}`)
	}
	r := newRig(t, s.URL, nil)
	_, from := rawClient(t, r, "clientId=a")
	server := <-s.conns
	go func() { _, _ = io.Copy(io.Discard, from) }()
	var workflow, states strings.Builder
	for i := range nodes {
		if i > 0 {
			workflow.WriteString(", ")
			states.WriteString(", ")
		}
		_, _ = fmt.Fprintf(&workflow, `"%d": {"class_type": "Node", "inputs": {"text": "some words"}}`, i)
		_, _ = fmt.Fprintf(&states, `"%d": {"value": 1, "max": 1, "state": "finished", "node_id": "%d", "prompt_id": "p", "display_node_id": "%d"}`, i, i, i)
	}
	response, err := http.Post(r.base+"/prompt", "application/json", strings.NewReader(`{"client_id": "a", "prompt": {`+workflow.String()+`}}`))
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	var frames bytes.Buffer
	frames.Write(text(`{"type": "execution_start", "data": {"prompt_id": "p"}}`))
	for i := range nodes {
		frames.Write(text(fmt.Sprintf(`{"type": "executing", "data": {"node": "%d", "prompt_id": "p"}}`, i)))
	}
	frames.Write(text(`{"type": "progress_state", "data": {"prompt_id": "p", "nodes": {` + states.String() + `}}}`))
	frames.Write(text(`{"type": "execution_success", "data": {"prompt_id": "p"}}`))
	_, err = server.Write(frames.Bytes())
	require.NoError(t, err)
	require.Eventually(t, func() bool { return len(r.traces.AllTraces()) == 1 }, time.Minute, time.Millisecond)
	assert.Equal(t, nodes+3, r.traces.AllTraces()[0].SpanCount(), "the request, the queue, the execution, and the nodes")
}
