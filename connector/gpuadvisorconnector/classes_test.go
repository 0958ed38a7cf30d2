// SPDX-License-Identifier: Apache-2.0

package gpuadvisorconnector

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
)

func TestAMisspeltClassIsLoggedOnce(t *testing.T) {
	built := func(classes []string) comfyevents.Source {
		return &server{comfyevents.Server{Name: "node-1:8188", TaskClasses: classes}}
	}
	for _, c := range []struct {
		name    string
		servers []comfyevents.Source
		key     string // of the warning; empty for none
	}{
		{"no server", nil, ""},
		{"another name", []comfyevents.Source{built([]string{"people", "buildings", "other"})}, "classes::peopel"},
		{"a server that has it", []comfyevents.Source{built([]string{"people"}), built([]string{"peopel"})}, ""},
		{"clients name classes", []comfyevents.Source{built(nil)}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			logs, seen := observer.New(zap.WarnLevel)
			began := time.Now()
			now := began
			a := &advisor{cfg: &Config{Classes: map[string]ClassConfig{"people": {}, "peopel": {}}}, bus: &comfyevents.Bus{}, log: zap.New(logs), began: began, now: func() time.Time { return now }}
			assert.False(t, a.checkClasses(), "the receivers may not have started")
			now = now.Add(classesAfter)
			for _, s := range c.servers {
				a.bus.Servers.Add(s)
			}
			assert.True(t, a.checkClasses())
			if c.key == "" {
				assert.Zero(t, seen.Len(), "%v", seen.All())
				return
			}
			require.Equal(t, 1, seen.Len())
			assert.Equal(t, map[string]any{"key": c.key, "known": "buildings, other, people"}, seen.All()[0].ContextMap())
		})
	}
}
