// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/lab/law"
	"github.com/otelcol-gpu/otelcol-gpu/lab/simulation"
)

// machine is the GPUs that the collector will see.
type machine struct {
	environment []string // of the collector
	gpus        int      // how many must arrive
	service     *simulation.Service
	end         func()
}

// findGPUs finds real GPUs; without any it starts simulated ones, the first of which
// works for a ComfyUI.
func (s *settings) findGPUs(ctx context.Context) (*machine, error) {
	if os.Getenv("SIMULATED_CARDS") == "" {
		if n := realGPUs(ctx); n > 0 {
			fmt.Printf("GPUs       %d, read through the NVIDIA driver\n", n)
			return &machine{gpus: n, end: func() {}}, nil
		}
	}
	fmt.Println()
	fmt.Println("NO NVIDIA GPU WAS FOUND ON THIS MACHINE. THE GPUS BELOW ARE SIMULATED:")
	fmt.Printf("%s; every series carries gpu_simulated=\"true\".\n\n", strings.Join(s.gpus, ", "))
	path, err := fakenvml.Cached(ctx, fakenvml.Current)
	if err != nil {
		return nil, err
	}
	state, err := fakenvml.Create(filepath.Join(s.folder, "fakenvml.state"))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var working sync.WaitGroup
	m := &machine{
		environment: []string{fakenvml.Environment + "=" + state.Path(), "OTELCOL_GPU_NVML_LIBRARY=" + path}, gpus: len(s.gpus),
		end: func() { cancel(); working.Wait() },
	}
	for i, name := range s.gpus {
		profile, err := fakenvml.LoadProfile(strings.TrimSpace(name))
		if err != nil {
			m.end()
			return nil, fmt.Errorf("SIMULATED_CARDS: %w", err)
		}
		state.SetDriver(profile.Driver.Version, profile.Driver.NVML, profile.Driver.CUDA)
		if i == 0 && s.comfyui == "" {
			service := simulation.NewService(state.AddGPU(profile), profile, uint64(i+1))
			if s.law > 0 {
				service.Law = law.New(uint64(s.law))
			}
			m.service = service
			working.Go(func() { service.Run(ctx) })
			continue
		}
		gpu := simulation.New(state.AddGPU(profile), profile, uint64(i+1))
		working.Go(func() { gpu.Run(ctx) })
	}
	return m, nil
}

// countGPUs is set in the environment of the child that counts the GPUs.
const countGPUs = "OTELCOL_GPU_COUNT_CARDS"

// realGPUs counts the GPUs that the driver reports, in a process of its own: whatever
// the driver does, this one does not hang.
func realGPUs(ctx context.Context) int {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), countGPUs+"=1")
	out, err := cmd.Output()
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(out)))
	return n
}

// printGPUs is the child's work.
func printGPUs() {
	sessions := nvml.NewSessions(nvml.Timing{})
	session, err := sessions.Acquire("", zap.NewNop())
	if err != nil {
		return
	}
	<-session.Inspected()
	if s := session.Snapshot(); !s.Simulated {
		fmt.Println(len(s.GPUs) + s.Unidentified)
	}
}
