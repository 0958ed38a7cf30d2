// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// systemStats is the answer of a server of which one thing may differ from those that have
// Dynamic VRAM.
func systemStats(version, torch, argv, aimdo, device string) string {
	return fmt.Sprintf(`{"system": {"os": "linux", "comfyui_version": %q, "pytorch_version": %q, "argv": [%s],
		"comfy_package_versions": [{"name": "comfy-kitchen", "installed": "0.2.31", "required": "0.2.31"}, {"name": "comfy-aimdo", "installed": %s, "required": "0.4.13"}]},
		"devices": [{"name": %q, "type": "cuda", "index": 0, "vram_total": 8000, "vram_free": 5000, "torch_vram_total": 3000, "torch_vram_free": 1000}]}`,
		version, torch, argv, aimdo, device)
}

func TestMemoryOfADevice(t *testing.T) {
	s, err := bounds.ParseSystemStats(strings.NewReader(systemStats("0.33.0", "2.8.0+cu128", `"main.py"`, `"0.4.13"`, "cuda:0 NVIDIA H100")))
	require.NoError(t, err)
	require.Len(t, s.Devices, 1)
	d := s.Devices[0]
	assert.Equal(t, []float64{8000, 5000, 3000, 1000, 2000}, []float64{d.Total, d.Free, d.TorchTotal, d.TorchFree, d.Active()})
	assert.Equal(t, "0.33.0", s.Version)
	d.TorchFree = 4000 // read later than the total
	assert.Zero(t, d.Active())
}

func TestDynamicVRAMIsProbablyOn(t *testing.T) {
	const version, torch, argv, aimdo, device = "0.33.0", "2.8.0+cu128", `"main.py", "--port", "8188"`, `"0.4.13"`, "cuda:0 NVIDIA GeForce RTX 4090 : cudaMallocAsync"
	for name, test := range map[string]struct {
		answer string
		want   bool
	}{
		"as released":             {systemStats(version, torch, argv, aimdo, device), true},
		"the first release":       {systemStats("0.16.0", torch, argv, aimdo, device), true},
		"the release before":      {systemStats("0.15.1", torch, argv, aimdo, device), false},
		"a release to come":       {systemStats("1.0.0", torch, argv, aimdo, device), true},
		"a release with a suffix": {systemStats("0.16rc1", torch, argv, aimdo, device), true},
		"without a version":       {systemStats("", torch, argv, aimdo, device), false},
		"an older torch":          {systemStats(version, "2.7.1+cu126", argv, aimdo, device), false},
		"a newer torch":           {systemStats(version, "2.10.0", argv, aimdo, device), true},
		"turned off":              {systemStats(version, torch, argv+`, "--disable-dynamic-vram"`, aimdo, device), false},
		"high VRAM":               {systemStats(version, torch, argv+`, "--highvram"`, aimdo, device), false},
		"all on the GPU":          {systemStats(version, torch, argv+`, "--gpu-only"`, aimdo, device), false},
		"nothing on the GPU":      {systemStats(version, torch, argv+`, "--novram"`, aimdo, device), false},
		"on the processor":        {systemStats(version, torch, argv+`, "--cpu"`, aimdo, device), false},
		"low VRAM":                {systemStats(version, torch, argv+`, "--lowvram"`, aimdo, device), true},
		"without comfy-aimdo":     {systemStats(version, torch, argv, "null", device), false},
		"AMD":                     {systemStats(version, torch, argv, aimdo, "cuda:0 AMD Radeon RX 7900 XTX : native"), false},
		"a vGPU":                  {systemStats(version, torch, argv, aimdo, "cuda:0 NVIDIA A40-8Q : native"), false},
		"a vGPU of old":           {systemStats(version, torch, argv, aimdo, "cuda:0 GRID P40-8Q : native"), false},
		"a laptop's GPU":          {systemStats(version, torch, argv, aimdo, "cuda:0 NVIDIA RTX 4090 Laptop GPU"), true},
		"MIG":                     {systemStats(version, torch, argv, aimdo, "cuda:0 NVIDIA H100 80GB HBM3 MIG 1g.10gb"), true},
		"an empty answer":         {`{}`, false},
		"arguments of other kinds": {
			strings.Replace(systemStats(version, torch, argv, aimdo, device), `"main.py"`, `1, null, ["--cpu"], {"--cpu": 1}`, 1), true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := bounds.ParseSystemStats(strings.NewReader(test.answer))
			require.NoError(t, err)
			assert.Equal(t, test.want, s.Dynamic())
		})
	}
}

func TestDevicesBeyondTheBoundAreLeftOut(t *testing.T) {
	s, err := bounds.ParseSystemStats(strings.NewReader(`{"devices": [` + strings.Repeat(`{"type": "cuda"},`, 1000) + `{"type": "cuda"}]}`))
	require.NoError(t, err)
	assert.Len(t, s.Devices, MaxDevices)
	for _, damaged := range []string{"", `{"devices": [`, `{"system": {"argv": [`, `{"devices": [{"vram_total": "x"`} {
		_, err := bounds.ParseSystemStats(strings.NewReader(damaged))
		assert.Error(t, err, damaged)
	}
}
