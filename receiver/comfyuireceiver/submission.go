// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/gate"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

// submission is one POST /prompt on its way to the server.
type submission struct {
	*proxy
	prompt *prompt.Prompt
	// spare is for how long the settlement may delay the answer.
	spare time.Duration
	// settled is true once what was reserved for it is no longer.
	settled bool
}

// settle ends what was reserved for the prompt, which the server accepted with an id, or not.
func (s *submission) settle(id string) {
	if a := s.prompt.Admission; a != nil && s.gate != nil && !s.settled {
		s.settled = true
		s.gate.Settle(a.Claim, id, s.spare)
	}
}

// largeBody is the length from which a body is large, in bytes.
const largeBody = 1 << 20

// servePrompt relays a prompt and begins to follow it.
func (p *proxy) servePrompt(w http.ResponseWriter, r *http.Request) {
	body, err := holdBody(r, p.maxPrompt, &p.bodies)
	defer body.release()
	if err != nil {
		badRequest(w)
		return
	}
	unread := !body.whole || isEncoded(r.Header)
	switch {
	case unread && p.enforces:
		p.refuseUnread(w, r, len(body.bytes))
		return
	case !body.whole || len(body.bytes) == 0 || r.Header.Get("Content-Encoding") != "":
		if unread && p.gate != nil { // what enforce would refuse
			p.decided(&prompt.Admission{Decision: admission.Decision{Verdict: admission.Reject, Reason: admission.Unread}}, "")
		}
		p.PromptUnfollowed(nil, "unread")
		p.relay.ServeHTTP(w, r)
		return
	}
	of := p.arrive(body.bytes)
	admitted, stays := p.admit(r, of)
	if !stays {
		w.WriteHeader(statusClientClosed)
		return
	}
	followed := p.follow(r, of, admitted)
	if admitted.Refuses() {
		p.refuse(w, r, followed, admitted, gate.Status(&admitted.Decision))
		return
	}
	p.pass(w, r, of, admitted)
	if followed == nil {
		if admitted != nil && p.gate != nil {
			defer p.gate.Settle(admitted.Claim, "", of.spare)
		}
		p.relay.ServeHTTP(w, r)
		return
	}
	s := &submission{proxy: p, prompt: followed, spare: of.spare}
	defer s.settle("")
	p.work.begins()
	defer p.work.update()
	if p.ownSocket.wanted(of.sub.ClientID) {
		defer p.hub.Reserve(of.sub.ClientID)()
	}
	// Stored before the server can know of it, so that a kill loses no prompt.
	p.store.submitted(followed)
	// The server runs the prompt even if the client leaves before the answer.
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	relay := p.relay
	relay.Rewrite, relay.ModifyResponse, relay.ErrorHandler = s.rewrite, s.readAnswer, s.badGateway
	relay.ServeHTTP(w, r.WithContext(ctx))
}

// parse parses the body of a prompt. The server rejects one that is not JSON.
func (p *proxy) parse(body []byte) protocol.Submission {
	if len(body) >= largeBody {
		p.parsing.Lock()
		defer p.parsing.Unlock()
	}
	sub, _ := p.bounds.ParseSubmission(bytes.NewReader(body))
	return sub
}

// follow begins to follow a prompt; nil if it cannot be.
func (p *proxy) follow(r *http.Request, of *arrival, admitted *prompt.Admission) *prompt.Prompt {
	client, _, _ := net.SplitHostPort(r.RemoteAddr)
	return p.tracker.Submit(of.received, prompt.Request{
		Submission: of.sub, Path: r.URL.Path, Client: client, Parent: callerOf(r.Header, of.sub.Traceparent), Admission: admitted, Input: of.input,
	})
}

// callerOf is the caller's span: of the request's header, else of extra_data.
func callerOf(header http.Header, traceparent string) trace.SpanContext {
	ctx := trace.ContextWithRemoteSpanContext(context.Background(), prompt.ParseTraceparent(traceparent))
	return trace.SpanContextFromContext(propagation.TraceContext{}.Extract(ctx, propagation.HeaderCarrier(header)))
}

// rewrite directs the request, with the root span as the caller of the server's spans. The
// answer must not be compressed, since it is read.
func (s *submission) rewrite(r *httputil.ProxyRequest) {
	s.proxy.rewrite(r)
	r.Out.Header.Del("Accept-Encoding")
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
		a = s.bounds.ParseAnswer(body)
	}
	switch {
	case response.StatusCode >= 300:
		s.hub.Refused(s.prompt.Submission.ClientID)
	case a.PromptID != "":
		s.PromptAccepted(s.prompt)
		if s.classes.seen(s.prompt) {
			s.QueueChanged() // they are asked for after the comparison
		}
		s.store.changed(s.prompt, s.prompt.SaveAnswered(s.now(), response.StatusCode, a))
	}
	s.tracker.Answer(s.prompt, s.now(), response.StatusCode, a)
	s.settle(a.PromptID)
	s.publishChange()
	s.memory.notify()
	return nil
}

// badGateway ends the prompt of a server that cannot be reached.
func (s *submission) badGateway(w http.ResponseWriter, r *http.Request, err error) {
	if s.ctx.Err() != nil {
		// The receiver shuts down and does not know whether the server has accepted the
		// prompt. It stays in the store.
		s.tracker.Unanswered(s.prompt)
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	s.tracker.Answer(s.prompt, s.now(), http.StatusBadGateway, s.bounds.ParseAnswer(unreachableAnswer))
	s.proxy.badGateway(w, r, err)
}
