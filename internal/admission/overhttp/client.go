// SPDX-License-Identifier: Apache-2.0

package overhttp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
)

// Client is an advisor in another collector. Its methods may be called from any goroutine.
type Client struct {
	client *http.Client
	base   string
	// server is the name of the server there; empty for the same as here.
	server string
	now    func() time.Time
}

var _ admission.Advisor = (*Client)(nil)

const (
	// maxAnswer bounds what is read of an answer in bytes.
	maxAnswer = 64 << 10
	// settleTimeout bounds a settlement, for which nobody waits.
	settleTimeout = 2 * time.Second
)

// ErrAdvice is the error of an advisor that does not advise, or not as expected.
var ErrAdvice = errors.New("no advice")

// NewClient makes an advisor that asks the gpuadvisor connector at base, as http://gpu-node-07:8890,
// about its server, or about the one of each request if that is empty.
func NewClient(client *http.Client, base, server string, now func() time.Time) *Client {
	return &Client{client: client, base: strings.TrimSuffix(base, "/"), server: server, now: now}
}

// Advise implements [admission.Advisor]. The error is [ErrAdvice], or that of the request.
func (c *Client) Advise(ctx context.Context, r *admission.Request) (d admission.Decision, err error) {
	server := c.server
	if server == "" {
		server = r.Server
	}
	body, err := json.Marshal(struct {
		Requests []AdviceRequest `json:"requests"`
	}{[]AdviceRequest{asked(r, server)}})
	if err != nil {
		return d, err
	}
	var list AdviceList
	if err := c.post(ctx, "/v1/advice", body, &list); err != nil {
		return d, err
	}
	if len(list.Advice) != 1 {
		return d, fmt.Errorf("%w: %d answers to one request", ErrAdvice, len(list.Advice))
	}
	return list.Advice[0].decision(r.Class, c.now()), nil
}

// Settle implements [admission.Advisor]. A claim whose settlement fails ends by itself.
func (c *Client) Settle(claim uint64, promptID string) {
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	if body, err := json.Marshal(Settlement{promptID}); err == nil {
		_ = c.post(ctx, "/v1/advice/claims/"+strconv.FormatUint(claim, 10), body, nil)
	}
}

// post sends a body, and decodes the answer.
func (c *Client) post(ctx context.Context, path string, body []byte, into any) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	response, err := c.client.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	switch {
	case err != nil:
		return err
	case response.StatusCode >= http.StatusMultipleChoices:
		return fmt.Errorf("%w: %s", ErrAdvice, response.Status)
	case into == nil:
		return nil
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return fmt.Errorf("%w: %w", ErrAdvice, err)
	}
	return nil
}
