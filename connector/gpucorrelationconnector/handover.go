// SPDX-License-Identifier: Apache-2.0

package gpucorrelationconnector

import (
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
)

// promptID is on the root span of a ComfyUI prompt.
const promptID = "comfyui.prompt.id"

// handovers lists the root spans of prompts, if anybody asks what becomes of them.
func (c *joinConnector) handovers(td ptrace.Traces) (all []comfyevents.Handover) {
	if !c.bus.Handovers.HasSubscribers() {
		return nil
	}
	for _, rs := range td.ResourceSpans().All() {
		for _, ss := range rs.ScopeSpans().All() {
			for _, s := range ss.Spans().All() {
				if s.Kind() != ptrace.SpanKindServer {
					continue
				}
				if _, ok := s.Attributes().Get(promptID); ok {
					all = append(all, comfyevents.Handover{Trace: s.TraceID(), Root: s.SpanID()})
				}
			}
		}
	}
	return all
}

// publish says where traces are. No lock of the connector is held.
func (c *joinConnector) publish(all []comfyevents.Handover, custody comfyevents.Custody) {
	for _, h := range all {
		h.Custody = custody
		c.bus.Handovers.Publish(h)
	}
}
