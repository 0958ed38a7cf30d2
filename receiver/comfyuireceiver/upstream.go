// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

const (
	// askTimeout bounds one of the receiver's own questions to the server.
	askTimeout = 5 * time.Second
	// largestAnswer bounds the answer, in bytes.
	largestAnswer = 64 << 20
)

// onThisHost reports whether a server's address is this host's own.
func onThisHost(base *url.URL) bool {
	ip := net.ParseIP(base.Hostname())
	return base.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}

// upstream is the ComfyUI server, for the receiver's own questions.
type upstream struct {
	base   *url.URL
	client *http.Client
	failed func()
}

// get asks for a path under the server's address.
func (u *upstream) get(ctx context.Context, path string) ([]byte, error) {
	body, err := u.ask(ctx, path)
	if err != nil && ctx.Err() == nil {
		u.failed()
	}
	return body, err
}

func (u *upstream) ask(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.base.String()+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := u.client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask ComfyUI for %s: %w", withoutQuery(path), err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, largestAnswer+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read ComfyUI's answer for %s: %w", withoutQuery(path), err)
	case len(body) > largestAnswer:
		return nil, fmt.Errorf("read ComfyUI's answer for %s: it is longer than %d bytes", withoutQuery(path), largestAnswer)
	case response.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("ask ComfyUI for %s: it answers %s", withoutQuery(path), response.Status)
	}
	return body, nil
}

func withoutQuery(path string) string {
	before, _, _ := strings.Cut(path, "?")
	return before
}

func (u *upstream) queue(ctx context.Context) (protocol.Queue, error) {
	body, err := u.get(ctx, "/queue")
	if err != nil {
		return protocol.Queue{}, err
	}
	return protocol.ParseQueue(body)
}

var errNotInHistory = errors.New("the history has no such prompt")

// finished is one prompt's entry of the history.
func (u *upstream) finished(ctx context.Context, id string) (protocol.Finished, error) {
	body, err := u.get(ctx, "/history/"+url.PathEscape(id))
	if err != nil {
		return protocol.Finished{}, err
	}
	all, err := protocol.ParseHistory(body)
	if err != nil {
		return protocol.Finished{}, err
	}
	f, ok := all[id]
	if !ok {
		return protocol.Finished{}, errNotInHistory
	}
	return f, nil
}

func (u *upstream) devices(ctx context.Context) ([]protocol.Device, error) {
	body, err := u.get(ctx, "/system_stats")
	if err != nil {
		return nil, err
	}
	return protocol.ParseSystemStats(body)
}
