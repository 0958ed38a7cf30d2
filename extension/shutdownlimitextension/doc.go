// SPDX-License-Identifier: Apache-2.0

// Package shutdownlimitextension ends the requests of exporters when the shutdown of the
// collector has lasted for some time.
//
// At shutdown, exporterhelper waits for the request under way, and then tries each batch
// that waits in memory once more: with a store that is silent each takes the exporter's
// timeout, one after the other, and nothing else ends them. With a persistent queue all of
// it is on disk, and the next start sends it, so there is nothing to wait for.
//
// The extension is a client middleware for HTTP and gRPC. The error that it returns is a
// retryable one: a persistent queue keeps what it was about. It is also a server middleware
// for gRPC, which ends calls that a client has begun and does not finish; HTTP servers have
// read_timeout for them.
package shutdownlimitextension // import "github.com/otelcol-gpu/otelcol-gpu/extension/shutdownlimitextension"
