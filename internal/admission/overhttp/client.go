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
	"sync"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
)

// Client is an advisor in another collector. Its methods may be called from any goroutine.
type Client struct {
	client *http.Client
	base   string
	// server is the name of the server there; empty for the same as here.
	server string
	now    func() time.Time
	// running ends with Close. work are the calls that are under way, and the goroutine that settles.
	running context.Context
	end     context.CancelFunc
	work    sync.WaitGroup

	// mu guards everything declared below.
	mu sync.Mutex
	// settlements wait to be sent; settles is true while a goroutine sends them.
	settlements []settlement
	settles     bool
	closed      bool
}

// settlement is a claim that ends.
type settlement struct {
	claim    uint64
	promptID string
}

var (
	_ admission.Advisor = (*Client)(nil)
	_ bounds.Registered = (*Client)(nil)
)

const (
	// maxAnswer bounds an answer in bytes.
	maxAnswer = 64 << 10
	// settleTimeout bounds a settlement, for which nobody waits.
	settleTimeout = 2 * time.Second
	// maxSettlements bounds those that wait: what a silent advisor would leave.
	maxSettlements = 256
	// closeTimeout bounds how long Close waits for them.
	closeTimeout = 500 * time.Millisecond
)

// ErrAdvice is the error of an advisor that does not advise, or not as expected.
var ErrAdvice = errors.New("no advice")

// NewClient makes an advisor that asks the gpuadvisor connector at base, as http://gpu-node-07:8890,
// about its server, or about the one of each request if that is empty. Close ends it.
func NewClient(client *http.Client, base, server string, now func() time.Time) *Client {
	// An advisor elsewhere than configured decides nothing, and does not get what authenticates.
	direct := *client
	direct.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c := &Client{client: &direct, base: strings.TrimSuffix(base, "/"), server: server, now: now}
	c.running, c.end = context.WithCancel(context.Background())
	return c
}

// begin reports whether a call may begin, which ends with work.Done.
func (c *Client) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.work.Add(1)
	}
	return !c.closed
}

// Close sends the settlements that wait, for half a second at most, and closes the connections. From
// then on nothing is asked or settled.
func (c *Client) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	late := time.AfterFunc(closeTimeout, c.end)
	c.work.Wait()
	late.Stop()
	c.end()
	c.client.CloseIdleConnections()
}

// Bounds implements [bounds.Registered].
func (c *Client) Bounds() []bounds.Bound {
	c.mu.Lock()
	defer c.mu.Unlock()
	return []bounds.Bound{{Name: "overhttp.Client.settlements", Max: maxSettlements, Size: len(c.settlements)}}
}

// Advise implements [admission.Advisor]. The error is [ErrAdvice], or that of the request.
func (c *Client) Advise(ctx context.Context, r *admission.Request) (d admission.Decision, err error) {
	if !c.begin() {
		return d, fmt.Errorf("%w: the client is closed", ErrAdvice)
	}
	defer c.work.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.running, cancel)()
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

// Settle implements [admission.Advisor]. It does not wait: settlements are sent one after the other.
// A claim whose settlement fails, or finds no room, ends by itself after [admission.ClaimTimeout].
func (c *Client) Settle(claim uint64, promptID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || len(c.settlements) >= maxSettlements {
		return
	}
	c.settlements = append(c.settlements, settlement{claim, promptID})
	if !c.settles {
		c.settles = true
		c.work.Go(c.settle)
	}
}

// settle sends the settlements until none waits.
func (c *Client) settle() {
	for {
		c.mu.Lock()
		if len(c.settlements) == 0 || c.running.Err() != nil {
			c.settlements, c.settles = nil, false
			c.mu.Unlock()
			return
		}
		next := c.settlements[0]
		c.settlements = c.settlements[1:]
		c.mu.Unlock()
		ctx, cancel := context.WithTimeout(c.running, settleTimeout)
		if body, err := json.Marshal(Settlement{next.promptID}); err == nil {
			_ = c.post(ctx, "/v1/advice/claims/"+strconv.FormatUint(next.claim, 10), body, nil)
		}
		cancel()
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
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case err != nil:
		return err
	case response.StatusCode >= http.StatusMultipleChoices:
		return fmt.Errorf("%w: %s", ErrAdvice, response.Status)
	case len(answer) > maxAnswer:
		return fmt.Errorf("%w: the answer exceeds %d bytes", ErrAdvice, maxAnswer)
	case into == nil:
		return nil
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return fmt.Errorf("%w: %w", ErrAdvice, err)
	}
	return nil
}
