// SPDX-License-Identifier: Apache-2.0

package gpuadvisorconnector

import (
	"maps"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
)

// classesAfter is how long after the start the names of classes are compared with those of the receivers,
// which start after a connector does.
const classesAfter = 10 * time.Second

// unusedClasses are the configured classes that no prompt of these servers can have.
func (c *Config) unusedClasses(servers []comfyevents.Server) (unused, known []string) {
	all := map[string]bool{}
	for i := range servers {
		if servers[i].TaskClasses == nil { // its clients choose
			return nil, nil
		}
		for _, name := range servers[i].TaskClasses {
			all[name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Classes)) {
		if !all[name] {
			unused = append(unused, name)
		}
	}
	return unused, slices.Sorted(maps.Keys(all))
}

// checkClasses logs once which classes no receiver of the collector has: a misspelt one has no
// effect, which is seen nowhere else. It reports whether it is done.
func (a *advisor) checkClasses() bool {
	if a.now().Sub(a.began) < classesAfter {
		return false
	}
	servers := a.bus.Servers.All()
	if len(servers) == 0 { // prompts of other collectors
		return true
	}
	unused, known := a.cfg.unusedClasses(servers)
	for _, name := range unused {
		a.log.Warn("No comfyui receiver of this collector has a task class of this name; its prompts are decided by default_class. Use one of the known names, or add it to task_classes of the receiver",
			zap.String("key", "classes::"+name), zap.String("known", strings.Join(known, ", ")))
	}
	return true
}
