// SPDX-License-Identifier: Apache-2.0

package shutdownlimitextension

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension/extensioncapabilities"
	"go.opentelemetry.io/collector/extension/extensionmiddleware"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
)

var (
	_ extensionmiddleware.HTTPClient        = (*limit)(nil)
	_ extensionmiddleware.GRPCClient        = (*limit)(nil)
	_ extensionmiddleware.GRPCServer        = (*limit)(nil)
	_ extensioncapabilities.PipelineWatcher = (*limit)(nil)
)

// errReached is neither a permanent error nor a cancelled context, which some exporters
// take for permanent: what was to be sent stays in its queue.
var errReached = errors.New("the collector is shutting down; the request is sent again after the next start")

// limit ends requests once the shutdown has lasted for the configured time.
type limit struct {
	component.StartFunc

	after   time.Duration
	reached context.Context // is done from the limit on
	reach   context.CancelFunc

	mu    sync.Mutex
	timer *time.Timer // guarded by mu; set by NotReady
}

func newLimit(after time.Duration) *limit {
	l := &limit{after: after}
	l.reached, l.reach = context.WithCancel(context.Background())
	return l
}

// Ready implements extensioncapabilities.PipelineWatcher.
func (l *limit) Ready() error { return nil }

// NotReady is called as the collector begins to shut down, before any receiver ends.
func (l *limit) NotReady() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.timer = time.AfterFunc(l.after, l.reach)
	return nil
}

// Shutdown is called after all exporters have ended.
func (l *limit) Shutdown(context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer != nil {
		l.timer.Stop()
	}
	l.reach()
	return nil
}

// limited derives a context that ends at the limit, too; done releases it.
func (l *limit) limited(ctx context.Context) (_ context.Context, done func()) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(l.reached, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// GetGRPCClientOptions implements extensionmiddleware.GRPCClient.
func (l *limit) GetGRPCClientOptions(context.Context) ([]grpc.DialOption, error) {
	return []grpc.DialOption{grpc.WithChainUnaryInterceptor(l.intercept)}, nil
}

func (l *limit) intercept(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	ctx, done := l.limited(ctx)
	defer done()
	err := invoke(ctx, method, request, reply, conn, options...)
	if err != nil && l.reached.Err() != nil {
		return status.Error(codes.Unavailable, errReached.Error())
	}
	return err
}

// GetGRPCServerOptions implements extensionmiddleware.GRPCServer: calls that a client has
// begun and does not finish end at the limit. grpc-go would wait for them for ever.
func (l *limit) GetGRPCServerOptions(context.Context) ([]grpc.ServerOption, error) {
	return []grpc.ServerOption{grpc.InTapHandle(func(ctx context.Context, _ *tap.Info) (context.Context, error) {
		limited, done := l.limited(ctx)
		context.AfterFunc(ctx, done) // the call is over
		return limited, nil
	})}, nil
}

// GetHTTPRoundTripper implements extensionmiddleware.HTTPClient.
func (l *limit) GetHTTPRoundTripper(context.Context) (extensionmiddleware.WrapHTTPRoundTripperFunc, error) {
	return func(_ context.Context, next http.RoundTripper) (http.RoundTripper, error) {
		return &roundTripper{limit: l, next: next}, nil
	}, nil
}

type roundTripper struct {
	limit *limit
	next  http.RoundTripper
}

func (r *roundTripper) RoundTrip(request *http.Request) (*http.Response, error) {
	ctx, done := r.limit.limited(request.Context())
	response, err := r.next.RoundTrip(request.WithContext(ctx))
	if err != nil {
		done()
		if r.limit.reached.Err() != nil {
			return nil, errReached
		}
		return nil, err
	}
	response.Body = &body{ReadCloser: response.Body, done: done}
	return response, nil
}

// body is a response's body.
type body struct {
	io.ReadCloser
	// done ends the request's context. It is called once the body is closed, since the
	// context must last until the body has been read.
	done func()
}

func (b *body) Close() error {
	defer b.done()
	return b.ReadCloser.Close()
}
