// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

func (s *service) dropped(signal string) {
	s.telemetry.ReceiverComfyuiDropped.Add(context.Background(), 1, metric.WithAttributes(attribute.String("signal", signal)))
}

func (s *service) folded(what string) {
	s.telemetry.ReceiverComfyuiFolded.Add(context.Background(), 1, metric.WithAttributes(attribute.String("comfyui.what", what)))
}

func (s *service) unfollowed() {
	s.telemetry.ReceiverComfyuiPromptsUnfollowed.Add(context.Background(), 1)
}
