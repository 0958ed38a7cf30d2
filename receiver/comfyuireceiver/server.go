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
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/metadata"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

const (
	// requestTimeout bounds each of the receiver's own requests.
	requestTimeout = 5 * time.Second
	// maxResponse bounds their responses, in bytes.
	maxResponse = 64 << 20
)

// onThisHost reports whether an address is a loopback address.
func onThisHost(base *url.URL) bool {
	return base.Hostname() == "localhost" || net.ParseIP(base.Hostname()).IsLoopback()
}

// comfyServer makes the receiver's own requests to ComfyUI.
type comfyServer struct {
	base      *url.URL
	client    *http.Client
	telemetry *metadata.TelemetryBuilder
}

func (s *comfyServer) request(ctx context.Context, target string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.base.String()+target, http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := s.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxResponse+1))
	switch {
	case err != nil:
		return nil, err
	case len(body) > maxResponse:
		return nil, fmt.Errorf("the response exceeds %d bytes", maxResponse)
	case response.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("the response is %s", response.Status)
	}
	return body, nil
}

// read requests a path below the server's address and parses the response. It counts a
// failed request.
func read[T any](ctx context.Context, s *comfyServer, path, query string, parse func([]byte) (T, error)) (v T, err error) {
	body, err := s.request(ctx, path+query)
	if err != nil {
		if ctx.Err() == nil {
			s.telemetry.ReceiverComfyuiUpstreamErrors.Add(context.Background(), 1)
		}
		return v, fmt.Errorf("request %s of ComfyUI: %w", path, err)
	}
	return parse(body)
}

func (s *comfyServer) queue(ctx context.Context) (protocol.Queue, error) {
	return read(ctx, s, "/queue", "", protocol.ParseQueue)
}

// history requests entries of the history, by their ids.
func (s *comfyServer) history(ctx context.Context, query string) (map[string]protocol.Finished, error) {
	return read(ctx, s, "/history", query, protocol.ParseHistory)
}

func (s *comfyServer) devices(ctx context.Context) ([]protocol.Device, error) {
	return read(ctx, s, "/system_stats", "", protocol.ParseSystemStats)
}

var errNotInHistory = errors.New("the history does not hold the prompt")

// finished requests one prompt's entry of the history.
func (s *comfyServer) finished(ctx context.Context, id string) (protocol.Finished, error) {
	all, err := s.history(ctx, "/"+url.PathEscape(id))
	if err != nil {
		return protocol.Finished{}, err
	}
	f, ok := all[id]
	if !ok {
		return protocol.Finished{}, errNotInHistory
	}
	return f, nil
}
