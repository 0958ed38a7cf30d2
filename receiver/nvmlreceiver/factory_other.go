// SPDX-License-Identifier: Apache-2.0

//go:build !linux || !cgo

package nvmlreceiver

import (
	"context"
	"errors"
	"runtime"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/receiver"
)

// newCreators refuse: NVML is reached through cgo, on Linux.
func newCreators() (receiver.CreateMetricsFunc, receiver.CreateLogsFunc) {
	return func(context.Context, receiver.Settings, component.Config, consumer.Metrics) (receiver.Metrics, error) {
			return nil, refusal()
		}, func(context.Context, receiver.Settings, component.Config, consumer.Logs) (receiver.Logs, error) {
			return nil, refusal()
		}
}

func refusal() error {
	if runtime.GOOS != "linux" {
		return errors.New("the nvml receiver reads NVIDIA GPUs on Linux only, and this is " + runtime.GOOS + ": remove it from the configuration")
	}
	return errors.New("the nvml receiver needs cgo, and this collector was built without it: build with CGO_ENABLED=1 (ocb: dist.cgo_enabled: true)")
}
