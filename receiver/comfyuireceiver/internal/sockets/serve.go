// SPDX-License-Identifier: Apache-2.0

package sockets

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/frames"
)

// openTimeout bounds the opening of an own socket, up to the server's first frame.
const openTimeout = 5 * time.Second

var errNotWritable = errors.New("upgrade the connection: the server's answer is not writable")

// Serve relays a client's WebSocket until the client leaves; out is its upgrade request
// as the server is to receive it. An error means that nothing was written to w: the server
// could not be reached, or the error is [ErrFull].
func (h *Hub) Serve(w http.ResponseWriter, r, out *http.Request) error {
	s, err := h.connect(r.Context(), r.URL.Query().Get("clientId"))
	if s == nil {
		return err
	}
	defer s.release()
	// Until the server has answered, the request ends with the client and with the hub. Once
	// upgraded, the connection no longer ends with it.
	ctx, cancel := context.WithCancel(r.Context())
	stop := context.AfterFunc(h.ctx, cancel)
	response, err := h.Transport.RoundTrip(out.WithContext(ctx))
	stop()
	if err != nil {
		cancel()
		return err
	}
	defer cancel()
	if response.StatusCode != http.StatusSwitchingProtocols {
		defer response.Body.Close()
		for name, values := range response.Header {
			w.Header()[name] = append(w.Header()[name], values...)
		}
		w.WriteHeader(response.StatusCode)
		_, _ = io.Copy(w, response.Body)
		return nil
	}
	server, ok := response.Body.(io.ReadWriteCloser)
	if !ok {
		return errNotWritable
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		_ = server.Close()
		http.Error(w, "this connection cannot be upgraded", http.StatusInternalServerError)
		return nil
	}
	_ = conn.SetDeadline(time.Time{})
	s.attach(server, response.Header)
	s.client = conn
	if writeUpgrade(buffered.Writer, response) != nil || !h.relay(s) {
		_ = server.Close()
		_ = conn.Close()
		return nil
	}
	s.relayFromClient(buffered.Reader)
	return nil
}

// attach gives a socket its server's side, as the answer to the upgrade describes it.
func (s *socket) attach(server io.ReadWriteCloser, answer http.Header) {
	s.server, s.fromServer = server, bufio.NewReaderSize(server, bufferSize)
	s.reader = frames.NewReader(s.hub.FrameBytes, answer.Get("Sec-WebSocket-Extensions"), s)
	s.unnamed = s.id() == ""
}

// writeUpgrade writes the server's answer to the client's upgrade request.
func writeUpgrade(w *bufio.Writer, response *http.Response) error {
	_, _ = fmt.Fprintf(w, "HTTP/1.1 %s\r\n", response.Status) // Flush returns the first error
	_ = response.Header.Write(w)
	_, _ = w.WriteString("\r\n")
	return w.Flush()
}

// open opens an own socket and relays from it until it closes.
func (h *Hub) open(s *socket) {
	defer s.release()
	if err := h.dial(h.ctx, s); err != nil {
		h.Logger.Debug("Failed to open a socket to ComfyUI for a client without one; the nodes of its prompt are not traced", zap.Error(err))
		return
	}
	if !h.advance(s, retained, opening) {
		s.leaveServer()
		return
	}
	s.relayFromServer()
}

// Watch opens a socket under an id that no client has, and reads from it until it closes
// or ctx ends. The server sends it what goes to all sockets. An error means that it could
// not be opened.
func (h *Hub) Watch(ctx context.Context, id string) error {
	s := &socket{hub: h, record: &client{id: id}, toClient: make(chan struct{}, 1), uncounted: true}
	if err := h.dial(ctx, s); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, s.close)()
	s.relayFromServer()
	return nil
}

// dial connects an own socket under its client's id. The server has registered it when
// it sends its first frame, the status: before that, another socket of the same id may
// be registered first, and be replaced by this one.
func (h *Hub) dial(ctx context.Context, s *socket) error {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	address := *h.Upstream
	address.Path += "/ws"
	address.RawQuery = url.Values{"clientId": {s.id()}}.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String(), http.NoBody)
	if err != nil {
		return err
	}
	var key [16]byte
	_, _ = rand.Read(key[:])
	request.Header = http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"},
		"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {base64.StdEncoding.EncodeToString(key[:])},
	}
	untimed := *h.Client
	untimed.Timeout = 0 // it would end the socket too
	response, err := untimed.Do(request)
	if err != nil {
		return err
	}
	server, ok := response.Body.(io.ReadWriteCloser)
	if response.StatusCode != http.StatusSwitchingProtocols || !ok {
		_ = response.Body.Close()
		return fmt.Errorf("open a WebSocket: the server answered %s", response.Status)
	}
	// Once upgraded, the connection no longer ends with the request's context.
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	s.attach(server, response.Header)
	s.proxyOwned = true
	var header frames.Header
	if err = frames.ReadHeader(s.fromServer, &header); err == nil {
		err = s.forwardToClient(&header)
	}
	if err != nil {
		_ = server.Close()
	}
	return err
}
