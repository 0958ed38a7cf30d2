// SPDX-License-Identifier: Apache-2.0

package shutdownlimitextension

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

const patience = 30 * time.Second

// silentHTTP is a server that answers only when the test ends, and a client with the
// middleware. began receives once for each request that has arrived.
func silentHTTP(t *testing.T, l *limit) (client *http.Client, url string, began chan struct{}) {
	t.Helper()
	began = make(chan struct{}, 10)
	end := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		began <- struct{}{}
		select {
		case <-end:
		case <-r.Context().Done():
		}
	}))
	wrap, err := l.GetHTTPRoundTripper(t.Context())
	require.NoError(t, err)
	transport := &http.Transport{}
	wrapped, err := wrap(t.Context(), transport)
	require.NoError(t, err)
	t.Cleanup(func() {
		close(end)
		transport.CloseIdleConnections()
		server.Close()
	})
	return &http.Client{Transport: wrapped}, server.URL, began
}

func TestRequestUnderWayEndsAtTheLimitWithARetryableError(t *testing.T) {
	l := newLimit(10 * time.Millisecond)
	client, url, began := silentHTTP(t, l)
	result := make(chan error, 1)
	go func() {
		response, err := client.Get(url) //nolint:noctx // the middleware ends it
		if err == nil {
			response.Body.Close()
		}
		result <- err
	}()
	<-began
	require.NoError(t, l.NotReady())
	select {
	case err := <-result:
		require.ErrorIs(t, err, errReached)
		assert.NotErrorIs(t, err, context.Canceled, "the remote-write exporter drops what was cancelled")
	case <-time.After(patience):
		t.Fatal("the request has not ended")
	}
	_, err := client.Get(url) //nolint:noctx // the middleware ends it
	require.ErrorIs(t, err, errReached, "later requests fail at once")
	require.NoError(t, l.Shutdown(t.Context()))
}

func TestRequestsPassUntilTheLimit(t *testing.T) {
	l := newLimit(time.Hour)
	require.NoError(t, l.NotReady())
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "a response") }))
	defer server.Close()
	wrap, err := l.GetHTTPRoundTripper(t.Context())
	require.NoError(t, err)
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	wrapped, err := wrap(t.Context(), transport)
	require.NoError(t, err)
	response, err := (&http.Client{Transport: wrapped}).Get(server.URL) //nolint:noctx // answered at once
	require.NoError(t, err)
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	assert.Equal(t, "a response", string(text), "the body can be read after the round trip")
	require.NoError(t, l.Shutdown(t.Context()))
}

func TestCallUnderWayEndsAtTheLimitAsUnavailable(t *testing.T) {
	l := newLimit(10 * time.Millisecond)
	listener, err := net.Listen("tcp", "127.0.0.1:0") // accepts connections and is silent
	require.NoError(t, err)
	defer listener.Close()
	options, err := l.GetGRPCClientOptions(t.Context())
	require.NoError(t, err)
	conn, err := grpc.NewClient(listener.Addr().String(), append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, l.NotReady())
	err = conn.Invoke(t.Context(), "/any/Method", nil, nil)
	assert.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
	require.NoError(t, l.Shutdown(t.Context()))
}

func TestCallThatAClientDoesNotFinishEndsAtTheLimit(t *testing.T) {
	l := newLimit(10 * time.Millisecond)
	options, err := l.GetGRPCServerOptions(t.Context())
	require.NoError(t, err)
	began := make(chan struct{})
	server := grpc.NewServer(append(options, grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		close(began)
		return stream.RecvMsg(nil)
	}))...)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go func() { _ = server.Serve(listener) }()
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true}, "/any/Method", grpc.WaitForReady(true))
	require.NoError(t, err)
	<-began
	require.NoError(t, l.NotReady())
	ended := make(chan struct{})
	go func() {
		server.GracefulStop()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(patience):
		t.Fatal("the server has not ended")
	}
	require.NoError(t, l.Shutdown(t.Context()))
}

func TestLimitMustBePositive(t *testing.T) {
	require.ErrorContains(t, (&Config{}).Validate(), "after")
	require.NoError(t, NewFactory().CreateDefaultConfig().(*Config).Validate())
}
