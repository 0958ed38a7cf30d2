// SPDX-License-Identifier: Apache-2.0

//go:generate go run -C ../../tools go.opentelemetry.io/collector/cmd/mdatagen ../receiver/nvmlreceiver/metadata.yaml

// Package nvmlreceiver reads NVIDIA GPUs through NVML and emits metrics.
package nvmlreceiver // import "github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver"
