package comfyuireceiver

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"

	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/frames"
)

// listenFor opens a socket of the proxy's own for a client id that has none here, so
// that the nodes of its prompts are seen: the server tells of them to the socket of the
// prompt's client id and to nobody else. A client that comes later under the same id
// takes over, as from any socket before it.
//
// The returned function says that the request for the prompt has its answer. From then
// on the tracker knows whether the socket is needed.
func (p *proxy) listenFor(clientID string) (answered func()) {
	if !p.ownSockets || clientID == "" {
		return func() {}
	}
	if p.sockets.expect(clientID) {
		p.work.Go(func() {
			s, err := p.dialFor(clientID)
			if err == nil {
				if err = s.greeted(); err != nil {
					_ = s.server.Close()
					s = nil
				}
			}
			if err != nil {
				p.log.Debug("no socket to ComfyUI for the nodes of a prompt", zap.Error(err))
			}
			p.sockets.opened(clientID, s)
			if s == nil {
				return
			}
			if p.ctx.Err() != nil { // the end has closed the others
				s.leaveServer()
				return
			}
			s.down()
		})
	}
	return func() { p.sockets.answered(clientID) }
}

// dialFor opens a socket to the server under a client's id.
func (p *proxy) dialFor(clientID string) (*socket, error) {
	address := *p.upstream
	address.Path += "/ws"
	address.RawQuery = url.Values{"clientId": {clientID}}.Encode()
	// The request's context ends the connection too, so it is that of the receiver.
	ctx, cancel := context.WithCancel(p.ctx)
	timer := time.AfterFunc(askTimeout, cancel)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String(), nil)
	if err != nil {
		cancel()
		return nil, err
	}
	var key [16]byte
	_, _ = rand.Read(key[:])
	for name, value := range map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-Websocket-Version": "13", "Sec-Websocket-Key": base64.StdEncoding.EncodeToString(key[:])} {
		request.Header.Set(name, value)
	}
	client := *p.asking
	client.Timeout = 0 // it would end the socket too
	response, err := client.Do(request)
	if err == nil && response.StatusCode != http.StatusSwitchingProtocols {
		_ = response.Body.Close()
		err = errors.New("the server answers " + response.Status)
	}
	if err == nil && !timer.Stop() {
		_ = response.Body.Close()
		err = context.DeadlineExceeded
	}
	if err != nil {
		cancel()
		return nil, err
	}
	server, ok := response.Body.(io.ReadWriteCloser)
	if !ok {
		cancel()
		_ = response.Body.Close()
		return nil, errors.New("the server's answer to the upgrade cannot be written to")
	}
	s := &socket{
		proxy: p, clientID: clientID, own: true, server: ending{server, cancel},
		fromUp: bufio.NewReaderSize(server, bufferSize), toClient: make(chan struct{}, 1),
	}
	s.reader = frames.NewReader(p.limits.FrameBytes, response.Header.Get("Sec-WebSocket-Extensions"), p.text, p.unparsed)
	return s, nil
}

// greeted waits for the server's first frame, its status: before it, another socket
// under the same id may yet be registered before this one, and be replaced by it.
func (s *socket) greeted() error {
	timer := time.AfterFunc(askTimeout, func() { _ = s.server.Close() })
	defer timer.Stop()
	var h frames.Header
	if err := frames.ReadHeader(s.fromUp, &h); err != nil {
		return err
	}
	return s.passDown(&h)
}

// ending is a connection whose context ends with it.
type ending struct {
	io.ReadWriteCloser
	cancel func()
}

func (e ending) Close() error {
	err := e.ReadWriteCloser.Close()
	e.cancel()
	return err
}
