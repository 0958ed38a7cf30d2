// SPDX-License-Identifier: Apache-2.0

// Package fakemachine lets tests of one process share the NVML test library: a
// process keeps its first library, so there is one per test binary, and each
// test gets a fresh machine in it.
package fakemachine

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
)

// Library is the test library of this process and its state.
type Library struct {
	// Path is the shared library's.
	Path  string
	state *fakenvml.State
	// file is the state's. The test library opens it by its descriptor when it is loaded,
	// so it must stay open, which a file that nothing refers to does not.
	file *os.File
}

// Setup compiles the library and points this process to its state. Call it from
// TestMain, before anything loads NVML. The files are deleted at once: what is
// loaded and mapped stays, and the process leaves nothing behind.
func Setup(variant fakenvml.Variant) *Library {
	l, err := setup(variant)
	if err != nil {
		fmt.Fprintln(os.Stderr, "cannot set up the NVML test library:", err)
		os.Exit(1)
	}
	return l
}

func setup(variant fakenvml.Variant) (*Library, error) {
	path, err := fakenvml.Cached(context.Background(), variant)
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp("", "fakenvml-state-")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	state, err := fakenvml.Create(f.Name())
	if err != nil {
		return nil, err
	}
	// The library opens the file through this process's descriptor, so that its name can
	// be removed now, and nothing is left behind however the tests end.
	file, err := os.OpenFile(f.Name(), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, err
	}
	return &Library{Path: path, state: state, file: file}, os.Setenv(fakenvml.Environment, fmt.Sprintf("/proc/self/fd/%d", file.Fd()))
}

// Machine is a machine with GPUs of the profiles named, under load or idle.
func (l *Library) Machine(t testing.TB, profiles ...string) (*fakenvml.State, []*fakenvml.GPU) {
	t.Helper()
	l.state.Reset()
	t.Cleanup(l.state.Reset) // lets go of calls that hang
	gpus := make([]*fakenvml.GPU, 0, len(profiles))
	for _, name := range profiles {
		p, err := fakenvml.LoadProfile(name)
		if err != nil {
			t.Fatal(err)
		}
		l.state.SetDriver(p.Driver.Version, p.Driver.NVML, p.Driver.CUDA)
		gpus = append(gpus, l.state.AddGPU(p))
	}
	return l.state, gpus
}
