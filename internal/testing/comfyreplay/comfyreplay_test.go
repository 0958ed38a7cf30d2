// SPDX-License-Identifier: Apache-2.0

package comfyreplay

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestRecordingsPlayAgainstThemselves has the clients talk to the server without
// anything between, so that what a proxy changes is the proxy's.
func TestRecordingsPlayAgainstThemselves(t *testing.T) {
	for _, r := range All(t) {
		for _, compress := range []bool{false, true} {
			t.Run(r.Name, func(t *testing.T) {
				t.Parallel()
				s := Serve(t, &r, 4, compress)
				require.NoError(t, Drive(context.Background(), &r, s.URL, 4, compress))
				require.NoError(t, s.Done())
			})
		}
	}
}
