// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"

	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// blocker is a pipeline that waits until it is let go.
type blocker struct {
	consumertest.Consumer
	wait chan struct{}
}

func (b *blocker) ConsumeTraces(ctx context.Context, td ptrace.Traces) error {
	if b.wait != nil {
		<-b.wait
	}
	return b.Consumer.ConsumeTraces(ctx, td)
}
