// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net"
	"strings"
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
		c, all := collectorCommand(t, config+".yaml", []string{"OTELCOL_GPU_NVML_LIBRARY=/no/such/libnvidia-ml.so.1", "OTELCOL_GPU_COLLECTION_INTERVAL=1h"})
		c.Process = start(t, config, binary(), all.environment, all.arguments...)
		require.NoError(t, c.WaitHTTP(withPatience(t), all.health))
		header, err := net.Dial("tcp", strings.TrimPrefix(c.otlp, "http://"))
		require.NoError(t, err)
		_, err = fmt.Fprint(header, "POST /v1/met")
		require.NoError(t, err)
		half, err := net.Dial("tcp", strings.TrimPrefix(c.otlp, "http://"))
		require.NoError(t, err)
		_, err = fmt.Fprint(half, "POST /v1/metrics HTTP/1.1\r\nHost: otlp\r\nContent-Type: application/x-protobuf\r\nContent-Length: 1000\r\n\r\nhalf")
		require.NoError(t, err)
		took, err := c.Stop(20 * time.Second)
		assert.NoError(t, err)
		require.NoError(t, half.Close())
		require.NoError(t, header.Close())
		figure.AtMost("delivery.sigterm_"+strings.ReplaceAll(config, "-", "_")+".half_request", took.Seconds(), "s", promisedEnd.Seconds())
		assert.Less(t, took, promisedEnd)
	}
	c, all := collectorCommand(t, "node.yaml", []string{"OTELCOL_GPU_NVML_LIBRARY=/no/such/libnvidia-ml.so.1", "OTELCOL_GPU_COLLECTION_INTERVAL=1h"})
	c.Process = start(t, "node-grpc", binary(), all.environment, all.arguments...)
	require.NoError(t, c.WaitHTTP(withPatience(t), all.health))
	address := ""
	for _, e := range all.environment {
		if at, ok := strings.CutPrefix(e, "OTELCOL_GPU_OTLP_GRPC="); ok {
			address = at
		}
	}
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer conn.Close()
	conn.Connect()
	stream, err := conn.NewStream(withPatience(t), &grpc.StreamDesc{ClientStreams: true}, "/opentelemetry.proto.collector.trace.v1.TraceService/Export", grpc.WaitForReady(true))
	require.NoError(t, err)
	took, err := c.Stop(20 * time.Second)
	assert.NoError(t, err)
	figure.AtMost("delivery.sigterm_node.half_call", took.Seconds(), "s", promisedEnd.Seconds())
	assert.Less(t, took, promisedEnd)
	_ = stream.CloseSend()
}
