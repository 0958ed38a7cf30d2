// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httputil"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

// submission is one POST /prompt on its way to the server.
type submission struct {
	*proxy
	prompt *prompt.Prompt
}

// servePrompt relays a prompt and begins to follow it.
func (p *proxy) servePrompt(w http.ResponseWriter, r *http.Request) {
	body, whole, err := p.readBody(w, r)
	if err != nil {
		return
	}
	if !whole || len(body) == 0 || r.Header.Get("Content-Encoding") != "" {
		p.PromptUnfollowed()
		p.relay.ServeHTTP(w, r)
		return
	}
	// the server rejects a body that is not JSON
	sub, _ := protocol.ParseSubmission(body)
	client, _, _ := net.SplitHostPort(r.RemoteAddr)
	s := &submission{
		p,
		p.tracker.Submit(p.now(), prompt.Request{Submission: sub, Path: r.URL.Path, Client: client, Parent: callerOf(r.Header, sub.Traceparent)}),
	}
	defer p.hub.Reserve(sub.ClientID)()
	// The server runs the prompt even if the client leaves before the answer.
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	relay := p.relay
	relay.Rewrite, relay.ModifyResponse, relay.ErrorHandler = s.rewrite, s.readAnswer, s.badGateway
	relay.ServeHTTP(w, r.WithContext(ctx))
}

// callerOf is the caller's span: of the request's header, else of extra_data.
func callerOf(header http.Header, traceparent string) trace.SpanContext {
	ctx := trace.ContextWithRemoteSpanContext(context.Background(), prompt.ParseTraceparent(traceparent))
	return trace.SpanContextFromContext(propagation.TraceContext{}.Extract(ctx, propagation.HeaderCarrier(header)))
}

// rewrite directs the request, with the root span as the caller of the server's spans.
func (s *submission) rewrite(r *httputil.ProxyRequest) {
	s.proxy.rewrite(r)
	ctx := trace.ContextWithRemoteSpanContext(context.Background(), s.prompt.Context)
	propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(r.Out.Header))
}

// maxAnswer bounds the answer to a prompt that is read, in bytes.
const maxAnswer = 4 << 20

// readAnswer reads the answer to the prompt and puts it back.
func (s *submission) readAnswer(response *http.Response) error {
	body, _ := io.ReadAll(io.LimitReader(response.Body, maxAnswer)) // the body repeats its error to the client
	response.Body = restored{io.MultiReader(bytes.NewReader(body), response.Body), response.Body}
	var a protocol.Answer
	if response.Header.Get("Content-Encoding") == "" {
		a = protocol.ParseAnswer(body)
	}
	if response.StatusCode < 300 {
		s.PromptAccepted(s.prompt)
	}
	s.tracker.Answer(s.prompt, s.now(), response.StatusCode, a)
	return nil
}

// badGateway ends the prompt of a server that cannot be reached.
func (s *submission) badGateway(w http.ResponseWriter, r *http.Request, err error) {
	s.tracker.Answer(s.prompt, s.now(), http.StatusBadGateway, protocol.ParseAnswer(unreachableAnswer))
	s.proxy.badGateway(w, r, err)
}
