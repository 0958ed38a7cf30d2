// SPDX-License-Identifier: Apache-2.0

package stack

import "fmt"

// JaegerPorts are those a Jaeger listens on, all on loopback.
type JaegerPorts struct {
	Query int // page and HTTP API
	OTLP  int // spans over gRPC
	Admin int // health
}

// JaegerEnvironment makes Jaeger accept OTLP.
var JaegerEnvironment = []string{"COLLECTOR_OTLP_ENABLED=true"}

// JaegerArguments start Jaeger with its store in memory, which keeps the newest
// 10,000 traces. Its other ports are any free ones.
func JaegerArguments(p JaegerPorts) ([]string, error) {
	arguments := []string{
		"--log-level=warn", "--memory.max-traces=10000",
		fmt.Sprintf("--query.http-server.host-port=127.0.0.1:%d", p.Query),
		fmt.Sprintf("--collector.otlp.grpc.host-port=127.0.0.1:%d", p.OTLP),
		fmt.Sprintf("--admin.http.host-port=127.0.0.1:%d", p.Admin),
	}
	for _, other := range []string{"query.grpc-server", "collector.otlp.http", "collector.http-server", "collector.grpc-server"} {
		port, err := FreePort()
		if err != nil {
			return nil, err
		}
		arguments = append(arguments, fmt.Sprintf("--%s.host-port=127.0.0.1:%d", other, port))
	}
	return arguments, nil
}
