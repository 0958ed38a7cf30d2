// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"cmp"
	"context"
	"flag"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/comfyreplay"
)

var update = flag.Bool("update", false, "write the golden files again")

// posts counts the prompts that a recording's clients sent, accepted or not.
func posts(r *comfyreplay.Recording) (n int) {
	for i := range r.Lines {
		if l := &r.Lines[i]; l.Kind == "request" && l.Method == http.MethodPost && (l.Path == "/prompt" || l.Path == "/api/prompt") {
			n++
		}
	}
	return n
}

// TestEachRecordingGivesItsGoldenSpans plays every recording of a real ComfyUI
// through the proxy: clients and server notice nothing, and each prompt gives its
// trace, once.
func TestEachRecordingGivesItsGoldenSpans(t *testing.T) {
	for _, r := range comfyreplay.All(t) {
		for _, compress := range []bool{false, true} {
			name := r.Name + "/plain"
			if compress {
				name = r.Name + "/deflate"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				server := comfyreplay.Serve(t, &r, 2, compress)
				rig := newRig(t, server.URL, nil)
				require.Eventually(t, server.Watched, 10*time.Second, time.Millisecond)
				require.NoError(t, comfyreplay.Drive(context.Background(), &r, rig.base, 2, compress))
				require.NoError(t, server.Done())
				require.Eventually(t, func() bool { return len(rig.traces.AllTraces()) >= posts(&r) }, 20*time.Second, 10*time.Millisecond, "a prompt has not ended: %d of %d", len(rig.traces.AllTraces()), posts(&r))
				require.Eventually(t, func() bool { return rig.following.tracker.OpenCount() == 0 }, 10*time.Second, 10*time.Millisecond)
				rig.stopNow()
				require.Len(t, rig.traces.AllTraces(), posts(&r))

				var got [][]span
				for _, td := range rig.traces.AllTraces() {
					got = append(got, spansOf(t, td))
				}
				// Prompts that end at the same time come in any order.
				slices.SortStableFunc(got, func(a, b []span) int { return cmp.Compare(a[0].from, b[0].from) })
				path := filepath.Join("testdata", "golden", r.Name+".yaml")
				raw, err := yaml.Marshal(got)
				require.NoError(t, err)
				if *update && !compress {
					require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o750))
					require.NoError(t, os.WriteFile(path, raw, 0o600))
				}
				if *update {
					return
				}
				want, err := os.ReadFile(path)
				require.NoError(t, err)
				assert.Equal(t, string(want), string(raw))
			})
		}
	}
}
