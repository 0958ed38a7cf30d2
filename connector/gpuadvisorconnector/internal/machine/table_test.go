// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
)

// A metric or an attribute that a receiver renames would silently be absent from the page.
func TestTheReceiversEmitWhatTheTableReads(t *testing.T) {
	root, err := figure.Root()
	require.NoError(t, err)
	raw, err := os.ReadFile(filepath.Join(root, "docs", "inventory.txt"))
	require.NoError(t, err)
	attributes, known := map[string][]string{}, map[string]bool{}
	for line := range strings.Lines(string(raw)) {
		line = strings.TrimSpace(line)
		known[line] = true
		if rest, ok := strings.CutPrefix(line, "metric "); ok {
			name, rest, _ := strings.Cut(rest, " ")
			list := rest[strings.LastIndex(rest, "{")+1:]
			attributes[name] = strings.Split(strings.TrimSuffix(list, "}"), ",")
		}
	}
	seen := map[string]bool{}
	for i := range table {
		r := &table[i]
		assert.False(t, seen[r.metric], "%s is there twice", r.metric)
		seen[r.metric] = true
		if r.of.ofServer() {
			assert.True(t, known[r.metric], r.metric)
			for _, key := range r.by { // the inventory lists names with a dot
				assert.True(t, known[key] || !strings.Contains(key, "."), "%s of %s", key, r.metric)
			}
			continue
		}
		require.Contains(t, attributes, r.metric)
		assert.Contains(t, attributes[r.metric], "hw.id", r.metric)
		for _, key := range slices.Concat(r.by, keysOf(r.where)) {
			assert.Contains(t, attributes[r.metric], key, r.metric)
		}
	}
	for _, key := range []string{"hw.model", "hw.parent", "hw.name"} {
		assert.Contains(t, attributes["hw.gpu.info"], key)
	}
	for _, key := range []string{"process.pid", "process.executable.name", "k8s.pod.name"} {
		assert.Contains(t, attributes["hw.gpu.process.memory.usage"], key)
	}
}

func keysOf(all []attribute) (keys []string) {
	for _, a := range all {
		keys = append(keys, a.key)
	}
	return keys
}
