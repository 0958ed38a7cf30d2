// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvml

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.uber.org/goleak"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakekubelet"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
)

// nvmlEnergy moves as long as the power is not zero.
var nvmlEnergy = map[string]bool{"hw.energy": true}

func nvmlName(profile string, load, perGPU bool) string {
	words := []string{profile, "idle", "host"}
	if load {
		words[1] = "load"
	}
	if perGPU {
		words[2] = "per-card"
	}
	return strings.Join(words, "/")
}

func nvmlLeaks(t *testing.T) {
	ignored := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, ignored) })
}

// TestNVMLHealthy has every profile, idle and under load, on the host's resource
// and on resources of their own: as it is, and with the energy counters frozen.
func TestNVMLHealthy(t *testing.T) {
	nvmlLeaks(t)
	var part nvmlPart
	for _, profile := range fakenvml.Profiles() {
		for _, load := range []bool{false, true} {
			for _, perGPU := range []bool{false, true} {
				name := nvmlName(profile, load, perGPU)
				t.Run(name, func(t *testing.T) {
					_, cards := nvmlMachine(t, profile, load)
					f := nvmlFactory()
					r := nvmlStart(t, f, name, nvmlSettings(f, nil), map[string]any{"per_card_resource": perGPU})
					r.record("healthy/3", r.third(3), nvmlEnergy, nil)
					nvmlFreeze(cards)
					r.record("frozen/4", r.until(gpus{healthy: 3}), nil, map[string]bool{"hw.energy": true, "hw.power": true})
					part.add(r)
				})
			}
		}
	}
	part.check(t, "nvml-healthy")
}

// TestNVMLFaults has counters that go back, a GPU that hangs and comes back, and
// one that is lost. A hang costs a second, so each profile has it under load on the
// host's resource, and one of them also idle and on resources of their own.
func TestNVMLFaults(t *testing.T) {
	nvmlLeaks(t)
	type machine struct {
		profile      string
		load, perGPU bool
	}
	machines := []machine{{"h100", false, false}, {"h100", true, true}, {"h100-mig", true, true}}
	for _, profile := range fakenvml.Profiles() {
		machines = append(machines, machine{profile, true, false})
	}
	var part nvmlPart
	for _, m := range machines {
		name := nvmlName(m.profile, m.load, m.perGPU)
		t.Run(name, func(t *testing.T) {
			_, cards := nvmlMachine(t, m.profile, m.load)
			nvmlFreeze(cards)
			cards[0].Set("pcie_replays", 900)
			f := nvmlFactory()
			r := nvmlStart(t, f, name, nvmlSettings(f, nil), map[string]any{"per_card_resource": m.perGPU})
			record := func(situation string, from, to int, want gpus) {
				t.Helper()
				for i := from; i <= to; i++ {
					r.record(fmt.Sprintf("%s/%d", situation, i), r.until(want), nil, nil)
				}
			}
			counters := map[string]bool{"hw.energy": true, "hw.gpu.pcie.replays": true, "hw.gpu.io": true}
			r.record("before/3", r.third(3), nil, nil)

			// Back, the same, on, and back again.
			cards[0].SetEnergy(1000)
			cards[0].Set("pcie_replays", 3)
			record("reset", 1, 2, gpus{healthy: 3})
			cards[0].SetEnergy(2000)
			cards[0].Set("pcie_replays", 4)
			r.record("reset/3", r.until(gpus{healthy: 3}), nil, counters)
			cards[0].SetEnergy(1500)
			r.record("reset/4", r.until(gpus{healthy: 3}), nil, counters)

			cards[1].SetHang("nvmlDeviceGetTemperature", true)
			record("hung", 1, 3, gpus{healthy: 2, unresponsive: 1})
			cards[1].SetHang("nvmlDeviceGetTemperature", false)
			record("recovered", 1, 2, gpus{healthy: 3})

			cards[2].SetLost(true)
			record("lost", 1, 3, gpus{healthy: 2, lost: 1})
			part.add(r)
		})
	}
	part.check(t, "nvml-faults")
}

// TestNVMLPeaks has what is sampled between scrapes. How long a part of the GPU
// was active is another time at each run.
func TestNVMLPeaks(t *testing.T) {
	nvmlLeaks(t)
	var part nvmlPart
	sampled := map[string]bool{
		"hw.gpu.memory.usage.max": true, "hw.gpu.utilization.max": true, "hw.gpu.utilization.mean": true, "hw.gpu.active.time": true,
	}
	for _, profile := range fakenvml.Profiles() {
		name := nvmlName(profile, true, true)
		t.Run(name, func(t *testing.T) {
			_, cards := nvmlMachine(t, profile, true)
			cards[0].Step("encoder", 40)
			cards[1].Step("decoder", 30)
			f := nvmlFactory()
			r := nvmlStart(t, f, name, nvmlSettings(f, nil), map[string]any{"per_card_resource": true, "sampling_interval": "10ms"})
			r.record("peaks/3", r.third(3), map[string]bool{"hw.gpu.active.time": true}, sampled)
			part.add(r)
		})
	}
	part.check(t, "nvml-peaks")
}

// TestNVMLEveryNumber gives each number of a GPU a value of its own, most of which
// are 0 or not supported in the profiles: two that are taken for each other show.
func TestNVMLEveryNumber(t *testing.T) {
	nvmlLeaks(t)
	var part nvmlPart
	for _, profile := range []string{"h100", "h100-mig", "rtx-2080-super"} {
		for _, energy := range []string{"counter", "integrated"} {
			name := nvmlName(profile, true, false) + "/" + energy
			t.Run(name, func(t *testing.T) {
				_, cards := nvmlMachine(t, profile, true)
				nvmlFreeze(cards)
				for i, c := range cards {
					nvmlDistinct(c, int64(i))
					if energy == "integrated" {
						c.SetReturn("nvmlDeviceGetTotalEnergyConsumption", fakenvml.NotSupported)
					}
				}
				only := map[string]bool{}
				if energy == "integrated" {
					only["hw.energy"] = true
				}
				f := nvmlFactory()
				r := nvmlStart(t, f, name, nvmlSettings(f, nil), nil)
				r.record("distinct/3", r.third(3), nil, only)
				if energy == "counter" {
					// Numbers grow, a link and a process end, and throttling ends.
					for i, c := range cards {
						nvmlDistinct(c, int64(i+10))
					}
					cards[0].SetNVLinks(fakenvml.NVLink{Active: true, TxKiB: 1 << 30, RxKiB: 2 << 30, Errors: [5]int64{1001, 1002, 1003, 1004, 1005}})
					cards[1].SetProcesses()
					cards[2].Set("throttle_reasons", 0)
					r.record("grown/4", r.until(gpus{healthy: 3}), nil, nil)
				}
				part.add(r)
			})
		}
	}
	part.check(t, "nvml-numbers")
}

// nvmlDistinct sets every number of a GPU; seed tells GPUs and times apart, and a
// larger one gives larger counters.
func nvmlDistinct(c *fakenvml.GPU, seed int64) {
	for _, function := range []string{"nvmlDeviceGetFanSpeed_v2", "nvmlDeviceGetEccMode", "nvmlDeviceGetTotalEccErrors", "nvmlDeviceGetMemoryErrorCounter"} {
		c.SetReturn(function, fakenvml.Success)
	}
	for _, v := range []struct {
		name  string
		value int64
	}{
		{"memory_total", 80<<30 + seed}, {"memory_reserved", 500<<20 + seed}, {"memory_used", 700<<20 + seed},
		{"bar1_total", 128<<30 + seed}, {"bar1_used", 3<<20 + seed},
		{"temperature_gpu", 41 + seed}, {"temperature_margin", 21 + seed},
		{"temperature_limit_shutdown", 104}, {"temperature_limit_slowdown", 101}, {"temperature_limit_memory_max", 98}, {"temperature_limit_gpu_max", 95},
		{"power_limit_enforced", 401000}, {"power_limit_current", 402000}, {"power_limit_default", 403000}, {"power_limit_min", 104000}, {"power_limit_max", 705000},
		{"clock_graphics", 1101 + seed}, {"clock_sm", 1202 + seed}, {"clock_memory", 1303 + seed}, {"clock_video", 1404 + seed},
		{"clock_max_graphics", 2101}, {"clock_max_sm", 2202}, {"clock_max_memory", 2303}, {"clock_max_video", 2404},
		{"performance_state", 3}, {"throttle_reasons", 0x2a5 << (seed % 2)},
		{"remap_banks_max", 601}, {"remap_banks_high", 52}, {"remap_banks_partial", 43}, {"remap_banks_low", 34}, {"remap_banks_none", 25},
		{"fan_count", 2}, {"fan_speed", 61}, {"fan_rpm", 3210},
		{"pcie_generation", 3}, {"pcie_generation_max", 5}, {"pcie_width", 8}, {"pcie_width_max", 16}, {"pcie_replays", 77 + seed},
		{"ecc_mode", 1},
		{"ecc_corrected_volatile", 1001 + seed}, {"ecc_uncorrected_volatile", 1102 + seed}, {"ecc_corrected_aggregate", 1203 + seed}, {"ecc_uncorrected_aggregate", 1304 + seed},
		{"ecc_sram_corrected_volatile", 2001 + seed}, {"ecc_sram_uncorrected_volatile", 2102 + seed},
		{"ecc_dram_corrected_volatile", 2203 + seed}, {"ecc_dram_uncorrected_volatile", 2304 + seed},
		{"ecc_sram_corrected_aggregate", 2405 + seed}, {"ecc_sram_uncorrected_aggregate", 2506 + seed},
		{"ecc_dram_corrected_aggregate", 2607 + seed}, {"ecc_dram_uncorrected_aggregate", 2708 + seed},
	} {
		c.Set(v.name, v.value)
		c.SetValueReturn(v.name, fakenvml.Success)
	}
	// NVML_FI_*: retired pages, remapped rows, throttle times in ns, bytes, temperatures.
	for id, v := range map[int]int64{
		29: 11 + seed, 30: 12 + seed, 31: 1, 142: 13 + seed, 143: 14 + seed, 144: 1, 145: 0, 230: 2,
		82: 51 + seed, 94: 77 + seed, 193: 9, 194: 7, 195: 5, 196: 3,
	} {
		c.SetField(id, v, fakenvml.TypeUnsignedInt, fakenvml.Success)
	}
	for i, id := range []int{74, 75, 76, 269, 270, 271, 197, 198} {
		c.SetField(id, int64(i+1)*1_100_000_000+seed*1_000_000, fakenvml.TypeUnsignedLL, fakenvml.Success)
	}
	for i, id := range []int{185, 186} {
		c.SetField(id, int64(210_000+1000*i)+seed, fakenvml.TypeUnsignedInt, fakenvml.Success)
	}
	for i, id := range []int{1, 2, 3, 4, 5, 10, 11, 12, 13, 20, 21, 60, 61} {
		c.SetGPM(id, int64(3000+6250*i), fakenvml.Success)
	}
	for i, series := range []string{"gpu", "memory", "encoder", "decoder", "jpeg", "ofa"} {
		c.Step(series, int64(60+5*i))
	}
	links := make([]fakenvml.NVLink, 4)
	for i := range links {
		n := int64(i+1)*100 + seed
		links[i] = fakenvml.NVLink{Active: i != 2, TxKiB: n * 1000, RxKiB: n * 3000, Errors: [5]int64{n, n + 10, n + 20, n + 30, n + 40}}
	}
	c.SetNVLinks(links...)
	if c.Get("mig_mode") == 0 {
		c.SetProcesses(
			fakenvml.Process{PID: 4001, Memory: 5 << 30, SM: 31, Mem: 32, Enc: 33, Dec: 34},
			fakenvml.Process{PID: 4002, Memory: 6 << 30},
			fakenvml.Process{PID: 4002, Memory: 7 << 30, Graphics: true},
			fakenvml.Process{PID: 4003, Memory: fakenvml.NotAvailable, SM: 101},
		)
	}
}

// TestNVMLAwayAndBack has a GPU that is lost and comes back, a driver that is
// unloaded and loaded again, for which the session looks every five seconds, and a
// lost GPU that is forgotten.
func TestNVMLAwayAndBack(t *testing.T) {
	nvmlLeaks(t)
	var part nvmlPart
	t.Run("back", func(t *testing.T) {
		machine, cards := nvmlMachine(t, "h100", true)
		nvmlFreeze(cards)
		f := nvmlFactory()
		r := nvmlStart(t, f, "h100/back", nvmlSettings(f, nil), map[string]any{"per_card_resource": true})
		looks := func() int64 {
			return cards[0].Calls("nvmlDeviceGetHandleByIndex_v2") + cards[0].Calls("nvmlInit_v2")
		}
		r.third(3)
		before := looks()
		cards[1].SetLost(true)
		r.until(gpus{healthy: 2, lost: 1})
		nvmlWait(t, "the session sees it", func() bool { return looks() > before })
		cards[1].SetLost(false)
		r.record("found/3", r.third(3), nil, nil)

		before = looks()
		machine.UnloadDriver()
		r.until(gpus{lost: 3})
		nvmlWait(t, "the session sees it", func() bool { return looks() > before })
		machine.LoadDriver()
		cards[0].SetEnergy(1000)
		r.record("reloaded/3", r.third(3), nil, nil)
		part.add(r)
	})
	t.Run("forgotten", func(t *testing.T) {
		_, cards := nvmlMachine(t, "h100", true)
		nvmlFreeze(cards)
		f := nvmlFactory()
		r := nvmlStart(t, f, "h100/forgotten", nvmlSettings(f, nil), map[string]any{"per_card_resource": true, "forget_lost_after": "1ms"})
		r.third(3)
		cards[1].SetLost(true)
		r.record("forgotten/1", r.until(gpus{healthy: 2}), nil, nil)
		r.record("forgotten/2", r.until(gpus{healthy: 2}), nil, nil)
		part.add(r)
	})
	part.check(t, "nvml-away")
}

// TestNVMLPods has processes in the containers of pods, and devices that pods hold.
func TestNVMLPods(t *testing.T) {
	nvmlLeaks(t)
	_, cards := library.Machine(t, "l40s", "h100-mig")
	proc, logs := t.TempDir(), t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(logs, "containers"), 0o750))
	for pid, pod := range map[int]string{201: "a", 202: "b", 203: "part"} {
		id := fmt.Sprintf("%064x", pid)
		dir := filepath.Join(proc, strconv.Itoa(pid))
		require.NoError(t, os.MkdirAll(dir, 0o750))
		stat := fmt.Sprintf("%d (python3) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n", pid)
		cgroup := fmt.Sprintf("0::/kubepods.slice/kubepods-pod11111111_2222_3333_4444_%012x.slice/cri-containerd-%s.scope\n", pid, id)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "stat"), []byte(stat), 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "cgroup"), []byte(cgroup), 0o600))
		require.NoError(t, os.Symlink("/usr/bin/python3.12", filepath.Join(dir, "exe")))
		require.NoError(t, os.Symlink("/nowhere", filepath.Join(logs, "containers", pod+"_photos_main-"+id+".log")))
	}
	cards[0].SetProcesses(fakenvml.Process{PID: 201, Memory: 3 << 30, SM: 20}, fakenvml.Process{PID: 202, Memory: 5 << 30, SM: 70, Enc: 5, Dec: 6})
	cards[1].SetProcesses(fakenvml.Process{PID: 203, Memory: 1 << 30, MIG: true, GPUInstance: 2})
	kubelet := fakekubelet.New(t,
		fakekubelet.Pod("photos", "a", "main", "nvidia.com/gpu.shared", cards[0].UUID()+"::0"),
		fakekubelet.Pod("photos", "b", "main", "nvidia.com/gpu.shared", cards[0].UUID()+"::1"),
		fakekubelet.Pod("photos", "idle", "main", "nvidia.com/gpu", "nvidia1/gi3"),
	).Start(t)
	f := nvmlFactory()
	r := nvmlStart(t, f, "pods", nvmlSettings(f, nil), map[string]any{
		"processes": map[string]any{"proc_path": proc, "log_path": logs, "pod_resources": kubelet.Socket},
	})
	r.third(2)
	nvmlWait(t, "the kubelet's answer is known", func() bool {
		held := 0
		eachPoint(t, r.scrape(), func(_ pcommon.Resource, _ pmetric.ScopeMetrics, metric pmetric.Metric, _ string, _ pmetric.NumberDataPoint) {
			if metric.Name() == "hw.gpu.allocated" {
				held++
			}
		})
		return held == 3
	})
	only := map[string]bool{"hw.gpu.allocated": true, "hw.gpu.process.memory.usage": true, "hw.gpu.process.utilization": true}
	r.record("held/1", r.until(gpus{healthy: 2}), nil, only)
	cards[0].SetProcesses(fakenvml.Process{PID: 202, Memory: 6 << 30, SM: 71})
	r.record("ended/2", r.until(gpus{healthy: 2}), nil, only)
	cards[0].SetLost(true)
	r.record("lost/3", r.until(gpus{healthy: 1, lost: 1}), nil, only)
	var part nvmlPart
	part.add(r)
	part.check(t, "nvml-pods")
}
