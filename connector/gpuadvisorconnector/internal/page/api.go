// SPDX-License-Identifier: Apache-2.0

package page

import (
	_ "embed"
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
)

// openAPIDocument describes the addresses below /v1. `make generate` writes it.
//
//go:embed openapi.json
var openAPIDocument []byte

// The number of prompts of an answer.
const (
	defaultLimit = 50
	maxLimit     = 500
)

// problem is the answer to a request that failed.
type problem struct {
	Error string `json:"error"`
}

func answer(w http.ResponseWriter, r *http.Request, value any) {
	content, err := json.Marshal(value)
	if err != nil {
		refuse(w, http.StatusInternalServerError, "encode the answer: "+err.Error())
		return
	}
	send(w, r, content)
}

// send sends JSON, gzipped where that is worth it.
func send(w http.ResponseWriter, r *http.Request, content []byte) {
	w.Header().Set("Content-Type", "application/json")
	if len(content) > 1400 && acceptsGzip(r) {
		if packed, err := pack(content); err == nil {
			w.Header().Set("Content-Encoding", "gzip")
			content = packed
		}
	}
	_, _ = w.Write(content) //nolint:gosec // JSON, as JSON and with nosniff
}

func refuse(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(problem{text})
}

func (p *Page) state(w http.ResponseWriter, r *http.Request) {
	answer(w, r, p.source.State(languageOf(r)))
}

func (p *Page) prompts(w http.ResponseWriter, r *http.Request) {
	q, why := parseQuery(r)
	if why != "" {
		refuse(w, http.StatusBadRequest, why)
		return
	}
	answer(w, r, p.source.Prompts(languageOf(r), q))
}

// parseQuery reads a query, or returns what is wrong with it.
func parseQuery(r *http.Request) (q Query, why string) {
	values := r.URL.Query()
	q = Query{ID: values.Get("id"), Text: values.Get("q"), Outcome: values.Get("outcome"), Workflow: values.Get("workflow"), Sort: Newest, Limit: defaultLimit}
	if len(q.ID) > 1000 || len(q.Text) > 200 || len(q.Outcome) > 200 || len(q.Workflow) > 1000 {
		return q, "id, q, outcome or workflow is too long"
	}
	if text := values.Get("slow"); text != "" {
		slow, err := strconv.ParseBool(text)
		if err != nil {
			return q, "slow=" + printable(text) + " is not valid: use true or false"
		}
		q.Slow = slow
	}
	switch sort := Sort(values.Get("sort")); sort {
	case "", Newest:
	case Slowest:
		q.Sort = Slowest
	default:
		return q, "sort=" + printable(string(sort)) + " is not valid: use newest or slowest"
	}
	if text := values.Get("limit"); text != "" {
		limit, err := strconv.Atoi(text)
		if err != nil || limit < 1 || limit > maxLimit {
			return q, "limit=" + printable(text) + " is not valid: use 1 to " + strconv.Itoa(maxLimit)
		}
		q.Limit = limit
	}
	return q, ""
}

func (p *Page) prompt(w http.ResponseWriter, r *http.Request) {
	if detail, ok := p.source.Prompt(languageOf(r), r.PathValue("id")); ok {
		answer(w, r, detail)
		return
	}
	open, ok := p.source.Open(languageOf(r), r.PathValue("id"))
	if !ok {
		refuse(w, http.StatusNotFound, "No prompt is known by this id")
		return
	}
	answer(w, r, open)
}

func (p *Page) queue(w http.ResponseWriter, r *http.Request) {
	queue, ok := p.source.Queue(languageOf(r), r.URL.Query().Get("server"))
	if !ok {
		refuse(w, http.StatusNotFound, "No ComfyUI server is known by this name")
		return
	}
	answer(w, r, queue)
}

func (p *Page) trace(w http.ResponseWriter, r *http.Request) {
	content, ok := p.source.Trace(r.PathValue("id"))
	if !ok {
		refuse(w, http.StatusNotFound, "No trace is known by this prompt's id")
		return
	}
	send(w, r, content)
}

func (p *Page) history(w http.ResponseWriter, r *http.Request) {
	history, ok := p.source.History(r.URL.Query().Get("gpu"))
	if !ok {
		refuse(w, http.StatusNotFound, "No GPU is known by this id or name")
		return
	}
	answer(w, r, history)
}

func (p *Page) texts(w http.ResponseWriter, r *http.Request) {
	answer(w, r, texts.Page(languageOf(r)))
}

// rush starts a rush, for a page of this server only.
func (p *Page) rush(w http.ResponseWriter, r *http.Request) {
	if err := http.NewCrossOriginProtection().Check(r); err != nil {
		refuse(w, http.StatusForbidden, err.Error())
		return
	}
	if !p.source.State(languageOf(r)).CanRush {
		refuse(w, http.StatusNotFound, "A rush can be caused on simulated GPUs only")
		return
	}
	if err := p.source.Rush(r.Context()); err != nil {
		refuse(w, http.StatusServiceUnavailable, "start the rush: "+err.Error())
		return
	}
	w.WriteHeader(http.StatusAccepted)
}

func (p *Page) openAPI(w http.ResponseWriter, r *http.Request) { send(w, r, openAPIDocument) }
