// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/url"

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
			s, err := p.openFor(clientID)
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

// openFor opens a socket to the server under a client's id. It is open once the server
// has sent its first frame, its status: before it, another socket under the same id may
// yet be registered before this one, and be replaced by it.
func (p *proxy) openFor(clientID string) (*socket, error) {
	ctx, cancel := context.WithTimeout(p.ctx, askTimeout)
	defer cancel()
	address := *p.upstream
	address.Path += "/ws"
	address.RawQuery = url.Values{"clientId": {clientID}}.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String(), nil)
	if err != nil {
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
	if err != nil {
		return nil, err
	}
	server, ok := response.Body.(io.ReadWriteCloser)
	if response.StatusCode != http.StatusSwitchingProtocols || !ok {
		_ = response.Body.Close()
		return nil, errors.New("the server answers " + response.Status)
	}
	// From here on the request's context does not end the connection by itself.
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	s := p.newSocket(clientID, server, response.Header)
	s.own = true
	var h frames.Header
	if err = frames.ReadHeader(s.fromUp, &h); err == nil {
		err = s.passDown(&h)
	}
	if err != nil {
		_ = server.Close()
		return nil, err
	}
	return s, nil
}
