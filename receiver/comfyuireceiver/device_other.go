// SPDX-License-Identifier: Apache-2.0

//go:build !linux || !cgo

package comfyuireceiver

import (
	"context"
	"time"

	"go.uber.org/zap"
)

// gpusOf tells nothing without NVML.
type gpusOf struct{}

func newGPUsOf(string, *zap.Logger) *gpusOf { return &gpusOf{} }

func (*gpusOf) open() bool                          { return false }
func (*gpusOf) wait(time.Duration)                  {}
func (*gpusOf) simulated() bool                     { return false }
func (*gpusOf) close()                              {}
func (*gpusOf) at(int) (id string)                  { return "" }
func (*gpusOf) of(context.Context, int) (id string) { return "" }
