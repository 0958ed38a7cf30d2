// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const root = "../.."

// repository copies the dashboards and the runbooks.
func repository(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	for _, sub := range []string{grafanaFolder, mixinFolder, vmuiFolder, "docs/runbooks"} {
		require.NoError(t, os.CopyFS(filepath.Join(folder, sub), os.DirFS(filepath.Join(root, sub))))
	}
	return folder
}

func TestTheFilesAreUpToDate(t *testing.T) {
	require.NoError(t, run("check", root))
}

// TestCheckFindsWhatIsNotGenerated changes, removes and adds a file.
func TestCheckFindsWhatIsNotGenerated(t *testing.T) {
	for name, test := range map[string]struct {
		change func(t *testing.T, path string)
		want   string
	}{
		"a file of the mixin that differs": {func(t *testing.T, folder string) {
			require.NoError(t, os.WriteFile(filepath.Join(folder, mixinFolder, "gpus.json"), []byte("{}"), 0o600))
		}, "mixin/dashboards/gpus.json is not up to date"},
		"a page of vmui that is not there": {func(t *testing.T, folder string) {
			require.NoError(t, os.Remove(filepath.Join(folder, vmuiFolder, "1-gpus.json")))
		}, "1-gpus.json is not up to date"},
		"a file too many": {func(t *testing.T, folder string) {
			require.NoError(t, os.WriteFile(filepath.Join(folder, mixinFolder, "old.json"), nil, 0o600))
		}, "mixin/dashboards/old.json is not made from the source"},
	} {
		t.Run(name, func(t *testing.T) {
			folder := repository(t)
			require.NoError(t, run("check", folder))
			test.change(t, folder)
			assert.ErrorContains(t, run("check", folder), test.want)
			require.NoError(t, run("render", folder))
		})
	}
}
