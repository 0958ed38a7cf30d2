// SPDX-License-Identifier: Apache-2.0

package overload

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"
)

// forward is a reverse proxy to a server.
func forward(u *Upstream) *httputil.ReverseProxy {
	target, _ := url.Parse(u.URL)
	return &httputil.ReverseProxy{Transport: u.Transport, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
}

// judge answers prompts; everything else is forwarded.
type judge struct {
	node *Node
	// decide returns nil to pass a prompt on, which it may change, or what to refuse it with.
	decide func(u *Upstream, body map[string]any) *refusal
}

// refusal is an answer to a prompt.
type refusal struct {
	status, after int
	wait          time.Duration // as predicted; negative: nothing is
}

// Handler implements [Response].
func (j *judge) Handler(u *Upstream) http.Handler {
	proxy := forward(u)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.URL.Path != "/prompt" {
			proxy.ServeHTTP(w, r)
			return
		}
		raw, _ := io.ReadAll(r.Body)
		var body map[string]any
		_ = json.Unmarshal(raw, &body)
		if no := j.decide(u, body); no != nil {
			if no.after > 0 {
				w.Header().Set("Retry-After", strconv.Itoa(no.after))
			}
			w.WriteHeader(no.status)
			wait := ""
			if no.wait >= 0 {
				wait = fmt.Sprintf(`, "predicted_wait_s": %g`, no.wait.Seconds())
			}
			_, _ = fmt.Fprintf(w, `{"error": {"type": "otelcol_gpu_busy", "message": "", "details": "", "extra_info": {"reason": "test"%s}}, "node_errors": {}}`, wait)
			return
		}
		raw, _ = json.Marshal(body)
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(raw)), int64(len(raw))
		proxy.ServeHTTP(w, r)
	})
}

// Close implements [Response].
func (*judge) Close() {}

// decides starts a response that is a function.
func decides(decide func(n *Node, r *Record) *refusal) Starter {
	return func(n *Node) Response {
		return &judge{n, func(_ *Upstream, body map[string]any) *refusal {
			id, _ := body["prompt_id"].(string)
			n.ledger.mu.Lock()
			r := n.ledger.records[id]
			n.ledger.mu.Unlock()
			if r.Limit == 0 {
				return nil // the servers warm up
			}
			return decide(n, r)
		}}
	}
}

// passes is a response that does nothing.
type passes struct{}

// Handler implements [Response].
func (passes) Handler(u *Upstream) http.Handler { return forward(u) }

// Close implements [Response].
func (passes) Close() {}

// oracle knows what each prompt costs. It orders core by deadline and batch after it; it admits core
// that will end in time, and batch where nothing else waits and it will end in time though core
// overtakes it.
type oracle struct {
	node     *Node
	admitted []*Record // that have not ended
	predicts bool      // when core ends, and what drains
}

func withOracle(n *Node) Response { return &judge{n, (&oracle{node: n}).decide} }

const (
	// maxBatchWaiting is how many batch prompts wait at a server.
	maxBatchWaiting = 1
	// caution is how much more core work than usual may overtake a batch prompt; it costs nothing where
	// another takes its place.
	caution = 2
	// margin is what a prompt may need beside its cost.
	margin = 50 * time.Millisecond
)

// decide orders and admits prompts.
func (o *oracle) decide(u *Upstream, body map[string]any) *refusal {
	no, wait := o.judge(u, body)
	switch id, _ := body["prompt_id"].(string); {
	case !o.predicts && no != nil:
		no.wait = -1
	case o.predicts && no == nil && wait > 0:
		o.node.Predict(id, Band{wait * 3 / 4, wait, wait * 5 / 4})
	}
	return no
}

// judge is decide, and the time in which an admitted prompt will have ended.
func (o *oracle) judge(u *Upstream, body map[string]any) (no *refusal, wait time.Duration) {
	o.node.ledger.mu.Lock()
	defer o.node.ledger.mu.Unlock()
	id, _ := body["prompt_id"].(string)
	r := o.node.ledger.records[id]
	if r.Limit == 0 {
		return nil, 0
	}
	o.admitted = slices.DeleteFunc(o.admitted, func(c *Record) bool { return !c.Ended.IsZero() })
	left, coreLeft, batch, coreWaits, shared := time.Duration(0), time.Duration(0), 0, false, 1
	for _, c := range o.admitted {
		cost := c.Cost.Exclusive + c.Cost.Host
		coreWaits = coreWaits || c.Class == 0 && c.Began.IsZero()
		switch {
		case c.Server != u.Index:
			shared = len(o.node.Upstreams)
			continue
		case !c.Began.IsZero(): // at most so much of it is left
			cost = max(cost-time.Since(c.Began)/time.Duration(len(o.node.Upstreams)), 0)
			coreLeft += cost
		case c.Class == 0:
			coreLeft += cost
		default:
			batch++
		}
		left += cost
	}
	wait = (coreLeft+r.Cost.Exclusive+r.Cost.Host)*time.Duration(shared) + margin
	deadline := r.Came.Add(r.Limit)
	if r.Class != 0 {
		overtaken := 1 / (1 - o.node.Plan.Offered*o.node.Plan.CoreShare)
		if o.node.Plan.Offered > 1 {
			overtaken *= caution
		}
		wait = time.Duration(overtaken * float64((left+r.Cost.Exclusive+r.Cost.Host)*time.Duration(shared)))
	}
	late := time.Now().Add(wait).After(deadline) && len(o.admitted) > 0
	if late || r.Class != 0 && (coreWaits || batch >= maxBatchWaiting) {
		return &refusal{http.StatusTooManyRequests, 1, left}, 0
	}
	o.admitted = append(o.admitted, r)
	number := float64(deadline.UnixNano()) / 1e9
	if r.Class != 0 {
		number += 1e10
	}
	body["number"] = number
	return nil, wait
}

// holder holds each prompt for a time before it is passed on.
type holder struct {
	holds time.Duration
	mu    sync.Mutex
	held  int
}

// Handler implements [Response].
func (h *holder) Handler(u *Upstream) http.Handler {
	proxy := forward(u)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && r.URL.Path == "/prompt" {
			h.mu.Lock()
			h.held++
			first := h.held <= 1 // the prompt that warms the server up
			h.mu.Unlock()
			if !first {
				timer := time.NewTimer(h.holds)
				defer timer.Stop()
				select {
				case <-timer.C:
				case <-r.Context().Done():
					return
				}
			}
		}
		proxy.ServeHTTP(w, r)
	})
}

// Close implements [Response].
func (*holder) Close() {}
