// SPDX-License-Identifier: Apache-2.0

package stack

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestWarningsOfALogAreEachThereOnce(t *testing.T) {
	p := &Process{Log: filepath.Join(t.TempDir(), "log")}
	require.NoError(t, os.WriteFile(p.Log, []byte("2026-11-27T19:00:00Z\tinfo\ta.go:1\tStarted\n"+
		"2026-11-27T19:00:01Z\twarn\ta.go:2\tSlow\t{\"n\": 1}\n"+
		"2026-11-27T19:00:02Z\twarn\ta.go:2\tSlow\t{\"n\": 2}\n"+
		"a line of its stack\n"+
		"2026-11-27T19:00:03Z\terror\ta.go:3\tRefused\n"+
		"2026-11-27T19:00:04Z\terror\ta.go:4\tOne too many\n"), 0o600))
	assert.Equal(t, []string{"2026-11-27T19:00:01Z\twarn\ta.go:2\tSlow\t{\"n\": 1}", "2026-11-27T19:00:03Z\terror\ta.go:3\tRefused"}, p.Warnings(2))
}
