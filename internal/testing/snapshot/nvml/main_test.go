// SPDX-License-Identifier: Apache-2.0

package nvml

import (
	"fmt"
	"os"
	"testing"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakemachine"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/snapshot"
)

// library is the NVML test library of this process, and stateFile its state, kept
// open: the library opens it by this descriptor when it is first used, and a file
// that nothing refers to is closed by the garbage collector.
var (
	library   *fakemachine.Library
	stateFile *os.File
)

// TestMain fails the process for a wanted difference that was not seen.
func TestMain(m *testing.M) {
	library = fakemachine.Setup(fakenvml.Current)
	if err := keepState(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if err := snapshot.LoadDifferences(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if err := snapshot.UnusedDifferences(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func keepState() (err error) {
	if stateFile, err = os.OpenFile(os.Getenv(fakenvml.Environment), os.O_RDWR, 0); err != nil {
		return err
	}
	return os.Setenv(fakenvml.Environment, fmt.Sprintf("/proc/self/fd/%d", stateFile.Fd()))
}
