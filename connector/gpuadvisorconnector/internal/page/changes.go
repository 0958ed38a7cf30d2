// SPDX-License-Identifier: Apache-2.0

package page

import (
	"reflect"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
)

// changes lists what differs between two states, by the names of view.State's JSON. GPUs,
// servers and prompts are maps of those that differ, by id, with their order beside
// them if that differs: gpu_order, server_order, prompt_order.
func changes(before, now *view.State) map[string]any {
	all := map[string]any{}
	put := func(name string, was, is any) {
		if !reflect.DeepEqual(was, is) {
			all[name] = is
		}
	}
	put("language", before.Language, now.Language)
	put("host", before.Host, now.Host)
	put("simulated", before.Simulated, now.Simulated)
	put("can_rush", before.CanRush, now.CanRush)
	put("newest_sample", before.Newest, now.Newest)
	put("verdict", before.Verdict, now.Verdict)
	put("conditions", before.Conditions, now.Conditions)
	put("prompts_held", before.PromptsHeld, now.PromptsHeld)
	put("events", before.Events, now.Events)
	put("alerts", before.Alerts, now.Alerts)
	keyed(all, "gpus", "gpu_order", before.GPUs, now.GPUs, func(g *view.GPU) string { return g.ID })
	keyed(all, "servers", "server_order", before.Servers, now.Servers, func(s *view.Server) string { return s.Name })
	keyed(all, "prompts", "prompt_order", before.Prompts, now.Prompts, func(p *view.Prompt) string { return p.ID })
	return all
}

func keyed[T any](all map[string]any, name, order string, before, now []T, key func(*T) string) {
	old := make(map[string]*T, len(before))
	moved := len(before) != len(now)
	for i := range before {
		old[key(&before[i])] = &before[i]
		moved = moved || key(&before[i]) != key(&now[i])
	}
	changed := map[string]*T{}
	keys := make([]string, len(now))
	for i := range now {
		keys[i] = key(&now[i])
		if was := old[keys[i]]; was == nil || !reflect.DeepEqual(was, &now[i]) {
			changed[keys[i]] = &now[i]
		}
	}
	if len(changed) > 0 {
		all[name] = changed
	}
	if moved {
		all[order] = keys
	}
}
