// SPDX-License-Identifier: Apache-2.0

// Package rerun tests scripts/e2e.sh, which runs the end-to-end tests.
package rerun

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// trial is a module whose test fails in its first runs, which it counts by files, after it has printed
// a figure.
const trial = `package trial

import (
	"fmt"
	"os"
	"testing"
)

func TestThatPasses(t *testing.T) { fmt.Println("figure trial.bytes 3 bytes") }

func TestTrial(t *testing.T) { t.Run("part", trial) }

func trial(t *testing.T) {
	runs, err := os.ReadDir("runs")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.CreateTemp("runs", "run"); err != nil {
		t.Fatal(err)
	}
	if len(runs) < FAILURES {
		fmt.Println("figure delivery.trial.FIGURE")
		t.Error("the machine was busy")
	}
}
`

// run runs the script on a trial, and returns its exit status and what it prints.
func run(t *testing.T, failures, figure string) (status int, printed string) {
	t.Helper()
	script, err := filepath.Abs(filepath.Join("..", "..", "..", "scripts", "e2e.sh"))
	require.NoError(t, err)
	require.FileExists(t, script) // go test runs a cached test again once a file changed that it looked at
	folder := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(folder, "runs"), 0o700))
	for name, content := range map[string]string{
		"go.mod":        "module trial\n\ngo 1.26\n",
		"trial_test.go": strings.NewReplacer("FAILURES", failures, "FIGURE", figure).Replace(trial),
	} {
		require.NoError(t, os.WriteFile(filepath.Join(folder, name), []byte(content), 0o600))
	}
	out, err := exec.Command(script, folder).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), string(out)
	}
	require.NoError(t, err)
	return 0, string(out)
}

func TestATestThatFailsRunsOnceMoreAlone(t *testing.T) {
	const met, missed = "missing 0 samples goal <= 0 met", "missing 2 samples goal <= 0 missed"
	for _, c := range []struct {
		name, failures, figure string
		status                 int
		printed                []string
	}{
		{"passes", "0", met, 0, []string{"figure trial.bytes 3 bytes\n", "figure test.again 0 tests goal <= 0 met\n"}},
		{"fails once", "1", met, 0, []string{"the machine was busy", "\nfigure delivery.trial." + met + "\n", "figure test.again 1 tests goal <= 0 missed\n"}},
		{"fails twice", "2", met, 1, []string{"the machine was busy", "figure test.again 1 tests goal <= 0 missed\n"}},
		{"fails once, having lost something", "1", missed, 1, []string{"\nfigure delivery.trial." + missed + "\n", "something was lost or came twice"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			status, printed := run(t, c.failures, c.figure)
			assert.Equal(t, c.status, status, printed)
			for _, text := range c.printed {
				assert.Contains(t, printed, text)
			}
		})
	}
}
