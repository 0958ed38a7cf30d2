// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"

	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// blocker is a pipeline that waits until wait is closed, and returns err.
type blocker struct {
	wait chan struct{}
	err  error
	sink consumertest.TracesSink
}

func (*blocker) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

func (b *blocker) ConsumeTraces(ctx context.Context, td ptrace.Traces) error {
	if b.wait != nil {
		<-b.wait
	}
	if b.err != nil {
		return b.err
	}
	return b.sink.ConsumeTraces(ctx, td)
}
