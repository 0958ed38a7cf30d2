// SPDX-License-Identifier: Apache-2.0

//go:generate go run -C ../../tools go.opentelemetry.io/collector/cmd/mdatagen ../receiver/nvmlreceiver/metadata.yaml

// Package nvmlreceiver scrapes NVIDIA GPUs through NVML, and emits their events as logs.
package nvmlreceiver // import "github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver"
