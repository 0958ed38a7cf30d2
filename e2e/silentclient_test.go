// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
)

// TestClientThatStopsSendingDoesNotDelaySIGTERM has clients of the OTLP receivers that begin
// a request and do not finish it.
func TestClientThatStopsSendingDoesNotDelaySIGTERM(t *testing.T) {
	beside(t, working)
	for _, config := range []string{"node", "no-loss"} {
		took := stopWith(t, config, func(_ context.Context, environment []string) []io.Closer {
			return halfRequests(t, address(t, environment, "OTELCOL_GPU_OTLP_HTTP"))
		})
		figure.AtMost("delivery.sigterm_"+strings.ReplaceAll(config, "-", "_")+".half_request", took.Seconds(), "s", promisedEnd.Seconds())
		assert.Less(t, took, promisedEnd)
	}
	took := stopWith(t, "node", func(ctx context.Context, environment []string) []io.Closer {
		return []io.Closer{halfCall(ctx, t, address(t, environment, "OTELCOL_GPU_OTLP_GRPC"))}
	})
	figure.AtMost("delivery.sigterm_node.half_call", took.Seconds(), "s", promisedEnd.Seconds())
	assert.Less(t, took, promisedEnd)
}

// stopWith starts a collector, has clients begin requests, and stops it. A signal that comes
// before otelcol has asked for signals, which it does after it is ready, ends it at once: that
// says nothing of its clients, so it is started again.
func stopWith(t *testing.T, config string, begin func(ctx context.Context, environment []string) []io.Closer) time.Duration {
	t.Helper()
	for ctx := withPatience(t); ctx.Err() == nil; {
		c, all := collectorCommand(t, config+".yaml", []string{"OTELCOL_GPU_NVML_LIBRARY=/no/such/libnvidia-ml.so.1", "OTELCOL_GPU_COLLECTION_INTERVAL=1h"})
		c.Process = start(t, config, binary(), all.environment, all.arguments...)
		require.NoError(t, c.WaitHTTP(ctx, all.health))
		clients := begin(ctx, all.environment)
		took, err := c.Stop(20 * time.Second)
		for _, client := range clients {
			_ = client.Close()
		}
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() && status.Signal() == syscall.SIGTERM {
				t.Log("otelcol had not asked for signals yet")
				continue
			}
		}
		require.NoError(t, err)
		return took
	}
	require.Fail(t, "each SIGTERM ended the collector at once")
	return 0
}

// address is the value of an environment variable.
func address(t *testing.T, environment []string, name string) string {
	t.Helper()
	for _, e := range environment {
		if value, ok := strings.CutPrefix(e, name+"="); ok {
			return value
		}
	}
	require.Fail(t, "no variable "+name)
	return ""
}

// halfRequests sends half a request's header, and half a body that a handler waits for.
func halfRequests(t *testing.T, address string) []io.Closer {
	t.Helper()
	header, err := net.Dial("tcp", address)
	require.NoError(t, err)
	_, err = fmt.Fprint(header, "POST /v1/met")
	require.NoError(t, err)
	body, err := net.Dial("tcp", address) // accepted after the other one
	require.NoError(t, err)
	_, err = fmt.Fprint(body, "POST /v1/metrics HTTP/1.1\r\nHost: otlp\r\nContent-Type: application/x-protobuf\r\nExpect: 100-continue\r\nContent-Length: 1000\r\n\r\n")
	require.NoError(t, err)
	require.NoError(t, body.SetReadDeadline(time.Now().Add(patience)))
	line, err := bufio.NewReader(body).ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, line, "100 Continue", "a handler reads the body")
	_, err = fmt.Fprint(body, "half")
	require.NoError(t, err)
	return []io.Closer{header, body}
}

// halfCall begins a call of gRPC and sends no message.
func halfCall(ctx context.Context, t *testing.T, address string) io.Closer {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	_, err = conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, "/opentelemetry.proto.collector.trace.v1.TraceService/Export", grpc.WaitForReady(true))
	require.NoError(t, err)
	return conn
}
