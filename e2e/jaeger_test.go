// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/lab/stack"
)

// jaeger is a running Jaeger.
type jaeger struct {
	query string // its HTTP API
	otlp  string // where it accepts spans, over gRPC
}

func startJaeger(t testing.TB) *jaeger {
	t.Helper()
	query, grpc, admin := port(t), port(t), port(t)
	arguments, err := stack.JaegerArguments(stack.JaegerPorts{Query: query, OTLP: grpc, Admin: admin})
	require.NoError(t, err)
	p := start(t, "jaeger", tool(t, "jaeger"), stack.JaegerEnvironment, arguments...)
	require.NoError(t, p.WaitHTTP(withPatience(t), fmt.Sprintf("http://127.0.0.1:%d/", admin)))
	return &jaeger{query: fmt.Sprintf("http://127.0.0.1:%d", query), otlp: "127.0.0.1:" + strconv.Itoa(grpc)}
}

// jaegerTrace is a trace as Jaeger's API gives it.
type jaegerTrace struct {
	TraceID string       `json:"traceID"`
	Spans   []jaegerSpan `json:"spans"`
}

type jaegerSpan struct {
	TraceID       string `json:"traceID"`
	SpanID        string `json:"spanID"`
	OperationName string `json:"operationName"`
	StartTime     int64  `json:"startTime"`
	Duration      int64  `json:"duration"`
	References    []struct {
		SpanID string `json:"spanID"`
	} `json:"references"`
	Tags []struct {
		Key   string `json:"key"`
		Value any    `json:"value"`
	} `json:"tags"`
	Logs []struct {
		Fields []struct {
			Key   string `json:"key"`
			Value any    `json:"value"`
		} `json:"fields"`
	} `json:"logs"`
}

func (s *jaegerSpan) tag(key string) any {
	for _, tag := range s.Tags {
		if tag.Key == key {
			return tag.Value
		}
	}
	return nil
}

// traces asks Jaeger's API; what cannot be had is nothing.
func (j *jaeger) traces(path string) []jaegerTrace {
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, j.query+path, nil)
	if err != nil {
		return nil
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil
	}
	defer response.Body.Close()
	var answer struct {
		Data []jaegerTrace `json:"data"`
	}
	if json.NewDecoder(response.Body).Decode(&answer) != nil {
		return nil
	}
	return answer.Data
}

// slowest is the trace of the slowest photo.
func (j *jaeger) slowest() (id string) {
	longest := int64(0)
	for _, trace := range j.traces("/api/traces?limit=1000&lookback=1h&service=comfyui") {
		for i := range trace.Spans {
			if s := &trace.Spans[i]; s.OperationName == "comfyui.prompt" && s.Duration > longest {
				longest, id = s.Duration, trace.TraceID
			}
		}
	}
	return id
}

// hasSpan reports whether a span of ComfyUI with a name and more about it has arrived.
func (j *jaeger) hasSpan(name string, is func(*jaegerSpan) bool) bool {
	for _, trace := range j.traces("/api/traces?limit=100&lookback=1h&service=comfyui") {
		for i := range trace.Spans {
			if s := &trace.Spans[i]; s.OperationName == name && is(s) {
				return true
			}
		}
	}
	return false
}
