// SPDX-License-Identifier: Apache-2.0

// Package page serves the live page and its JSON. It shows what a [Source] has and
// knows neither where that comes from nor what it means: conditions and sentences
// arrive in words.
package page

import (
	"cmp"
	"context"
	"html/template"
	"net/http"
	"sync"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
)

// Source is what the page shows. Its methods may be called from any goroutine, and what
// they return is not changed afterwards.
type Source interface {
	State(l texts.Language) view.State
	Prompts(l texts.Language, q Query) view.Prompts
	Prompt(l texts.Language, id string) (view.Detail, bool)
	// Open returns a prompt that runs or waits, with its place in the queue.
	Open(l texts.Language, id string) (view.OpenDetail, bool)
	// Queue returns a server with all of its queue that is known.
	Queue(l texts.Language, server string) (view.Server, bool)
	// Trace returns the spans of a prompt as OTLP JSON.
	Trace(id string) ([]byte, bool)
	// History returns the samples of a GPU, by its hw.id or its name; none for a GPU that is
	// known and has no samples yet.
	History(gpu string) (view.History, bool)
	// Rush starts a rush of simulated users. It is called only if State.CanRush is true.
	Rush(ctx context.Context) error
}

// Query selects prompts that ended.
type Query struct {
	// ID is the prompt's whole id.
	ID string
	// Text is part of the prompt's id, workflow or model, in any case.
	Text string
	// Outcome is comfyui.prompt.outcome; [Failed] is several.
	Outcome string
	// Workflow is the whole name of a workflow.
	Workflow string
	// Slow selects prompts that took at least 1.5 times their usual time.
	Slow  bool
	Sort  Sort
	Limit int
}

// Failed is the outcome that stands for error and lost.
const Failed = "failed"

// Sort is the order of prompts.
type Sort string

// The orders.
const (
	Newest  Sort = "newest"
	Slowest Sort = "slowest"
)

// Settings configure a page. The zero value of each has a default.
type Settings struct {
	// Endpoint is the address that the server listens on: its host may be named by
	// requests, as may localhost and loopback addresses.
	Endpoint string
	// AllowedHosts are further hosts that requests may name, without a port.
	AllowedHosts []string
	// Advisor answers /v1/advice; nil for none. Claims is true if callers may claim, as proxies in
	// other collectors do.
	Advisor admission.Advisor
	Claims  bool
	// Free frees the memory of a server for a caller whose prompt is held meanwhile. It may be called
	// from any goroutine, ends with its context, and may be nil.
	Free func(ctx context.Context, server string) error
	// Recommender answers /v1/recommendations; nil for none.
	Recommender Recommender
	// MaxViewers limits the open streams (100).
	MaxViewers int
	// Interval is the time between two looks at the source while a stream is open (500ms).
	Interval time.Duration
	// Heartbeat is the longest time that a stream is silent (10s).
	Heartbeat time.Duration
	// WriteTimeout ends a stream whose viewer does not read (5s).
	WriteTimeout time.Duration
}

// Page is an [http.Handler] that serves the page.
type Page struct {
	source    Source
	settings  Settings
	mux       *http.ServeMux
	hub       *hub
	assets    *assetStore
	sealer    *sealer
	templates once[*template.Template]

	// running ends with Close, which waits for work. freeing bounds the requests to free memory that
	// are under way; ending is held while one begins.
	running context.Context
	end     context.CancelFunc
	ending  sync.Mutex
	work    sync.WaitGroup
	freeing chan struct{}
}

// New returns a page. Close ends its streams, and its requests to free memory.
func New(source Source, settings Settings) *Page {
	settings.MaxViewers = cmp.Or(settings.MaxViewers, 100)
	settings.Interval = cmp.Or(settings.Interval, 500*time.Millisecond)
	settings.Heartbeat = cmp.Or(settings.Heartbeat, 10*time.Second)
	settings.WriteTimeout = cmp.Or(settings.WriteTimeout, 5*time.Second)
	p := &Page{source: source, settings: settings, mux: http.NewServeMux(), hub: newHub(source, settings), assets: loadAssets(), sealer: newSealer(), freeing: make(chan struct{}, maxFreeing)}
	p.running, p.end = context.WithCancel(context.Background())
	p.mux.HandleFunc("GET /{$}", p.index)
	p.mux.HandleFunc("GET /prompts/{id}", p.index)
	p.mux.HandleFunc("GET /assets/{version}/{name}", p.assets.serve)
	p.mux.HandleFunc("GET /favicon.ico", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, p.assets.path("icon.svg"), http.StatusFound)
	})
	p.mux.HandleFunc("GET /v1/state", p.state)
	p.mux.HandleFunc("GET /v1/prompts", p.prompts)
	p.mux.HandleFunc("GET /v1/prompts/{id}", p.prompt)
	p.mux.HandleFunc("GET /v1/prompts/{id}/trace", p.trace)
	p.mux.HandleFunc("GET /v1/queue", p.queue)
	p.mux.HandleFunc("GET /v1/history", p.history)
	p.mux.HandleFunc("GET /v1/events", p.events)
	p.mux.HandleFunc("GET /v1/texts", p.texts)
	p.mux.HandleFunc("POST /v1/rush", p.rush)
	if settings.Advisor != nil {
		p.mux.HandleFunc("GET /v1/advice", p.advice)
		p.mux.HandleFunc("POST /v1/advice", p.adviseMany)
		p.mux.HandleFunc("POST /v1/advice/claims/{claim}", p.settle)
	}
	if settings.Recommender != nil {
		p.mux.HandleFunc("GET /v1/recommendations", p.recommendations)
	}
	p.mux.HandleFunc("GET /v1/openapi.json", p.openAPI)
	return p
}

// Close ends every stream, and those that begin afterwards at once, and waits for what it has
// begun. Call it before [http.Server.Shutdown], which waits for streams.
func (p *Page) Close() {
	p.hub.close()
	p.ending.Lock()
	p.end()
	p.ending.Unlock()
	p.work.Wait()
}

// Counts are the figures of the streams.
type Counts struct {
	// Viewers are the open streams.
	Viewers int
	// Dropped counts streams that ended because their viewer did not read.
	Dropped int64
	// Refused counts streams beyond MaxViewers.
	Refused int64
	// Encoded counts the messages that were encoded: one for all viewers of a language.
	Encoded int64
}

// Counts returns the figures of the streams.
func (p *Page) Counts() Counts { return p.hub.counts() }

var _ bounds.Registered = (*Page)(nil)

// Bounds implements [bounds.Registered].
func (p *Page) Bounds() []bounds.Bound {
	return append(bounds.Of(p.hub, p.assets), bounds.Bound{Name: "page.Page.freeing", Max: maxFreeing, Size: len(p.freeing)})
}

// ServeHTTP implements [http.Handler].
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if p.guard(w, r) {
		p.mux.ServeHTTP(w, r)
	}
}

// guard sets the headers of every answer, and refuses requests that name a foreign host.
func (p *Page) guard(w http.ResponseWriter, r *http.Request) bool {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "same-origin")         // with no-referrer, browsers send forms with the origin null
	if r.TLS != nil || isLoopback(hostOf(r.Host)) { // elsewhere browsers log that they ignore it
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
	}
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	h.Set("Vary", "Accept-Language, Accept-Encoding, Cookie")
	if !p.settings.allows(r) {
		http.Error(w, "The host "+printable(r.Host)+" is not allowed: add it to allowed_hosts", http.StatusForbidden)
		return false
	}
	return true
}

// policy allows what comes from this server and nothing else, and no markup made from strings.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'"

// once is a value that is made when it is first needed.
type once[T any] struct {
	sync.Once
	value T
	err   error
}

func (o *once[T]) get(produce func() (T, error)) (T, error) {
	o.Do(func() { o.value, o.err = produce() })
	return o.value, o.err
}
