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

// newCreator refuses: NVML is reached through cgo, on Linux.
func newCreator() receiver.CreateMetricsFunc {
	return func(context.Context, receiver.Settings, component.Config, consumer.Metrics) (receiver.Metrics, error) {
		if runtime.GOOS != "linux" {
			return nil, errors.New("the nvml receiver reads NVIDIA cards on Linux only, and this is " + runtime.GOOS + ": remove it from the configuration")
		}
		return nil, errors.New("the nvml receiver needs cgo, and this collector was built without it: build with CGO_ENABLED=1 (ocb: dist.cgo_enabled: true)")
	}
}
