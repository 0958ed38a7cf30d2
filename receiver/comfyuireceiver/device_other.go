// SPDX-License-Identifier: Apache-2.0

//go:build !linux || !cgo

package comfyuireceiver

import (
	"context"
	"time"

	"go.uber.org/zap"
)

// gpuProcesses finds nothing without NVML.
type gpuProcesses struct{}

func newGPUProcesses(string, *zap.Logger) *gpuProcesses { return &gpuProcesses{} }

func (*gpuProcesses) open() bool                       { return false }
func (*gpuProcesses) wait(time.Duration)               {}
func (*gpuProcesses) simulated() bool                  { return false }
func (*gpuProcesses) close()                           {}
func (*gpuProcesses) at(int) (id string)               { return "" }
func (*gpuProcesses) of(context.Context, int) []string { return nil }

func (*gpuProcesses) memory(string, int) (bytes uint64, at time.Time, ok bool) {
	return 0, time.Time{}, false
}

func (*gpuProcesses) list(context.Context, string) {}
