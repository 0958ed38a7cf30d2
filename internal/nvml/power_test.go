// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvml

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestOneFigureOfPowerIsThePresentOneBeforeAmpereAndOnGA100(t *testing.T) {
	for _, test := range []struct {
		architecture, model string
		instant             bool
	}{
		{"Pascal", "Tesla P40", true},
		{"Volta", "Tesla V100-SXM2-16GB", true},
		{"Turing", "NVIDIA GeForce RTX 2080 SUPER", true},
		{"Ampere", "NVIDIA A100-SXM4-80GB", true},
		{"Ampere", "NVIDIA A30", true},
		{"Ampere", "NVIDIA RTX A3000 Laptop GPU", false},
		{"Ampere", "NVIDIA A10", false},
		{"Ampere", "NVIDIA GeForce RTX 3090", false},
		{"Hopper", "NVIDIA H100 80GB HBM3", false},
		{"", "", false},
	} {
		i := Identity{Architecture: test.architecture, Model: test.model}
		assert.Equal(t, test.instant, i.HasInstantPower(), test.model)
	}
}
