// SPDX-License-Identifier: Apache-2.0

//go:build !linux || !cgo

package nvmlreceiver

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/receiver"
)

func createMetrics(context.Context, receiver.Settings, component.Config, consumer.Metrics) (receiver.Metrics, error) {
	return nil, errUnavailable()
}

func createLogs(context.Context, receiver.Settings, component.Config, consumer.Logs) (receiver.Logs, error) {
	return nil, errUnavailable()
}

// errUnavailable is why this build cannot create the receiver: NVML is called through
// cgo, on Linux.
func errUnavailable() error {
	if runtime.GOOS != "linux" {
		return fmt.Errorf("the nvml receiver supports Linux only, and this is %s; remove it from the configuration", runtime.GOOS)
	}
	return errors.New("the nvml receiver needs cgo, and this collector was built without it; build with CGO_ENABLED=1 (ocb: dist.cgo_enabled: true)")
}
