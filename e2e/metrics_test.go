// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/lab/stack"
)

// ratios are the metrics that are true ratios: no other name may end in _ratio.
var ratios = map[string]bool{
	"hw_gpu_memory_utilization_ratio": true, "hw_gpu_memory_bandwidth_utilization_ratio": true,
	"hw_gpu_utilization_ratio": true, "hw_fan_speed_ratio": true,
	"hw_gpu_utilization_max_ratio": true, "hw_gpu_utilization_mean_ratio": true,
	"hw_gpu_engine_active_ratio": true, "hw_gpu_sm_active_ratio": true, "hw_gpu_sm_occupancy_ratio": true,
	"hw_gpu_pipe_active_ratio": true, "hw_gpu_memory_active_ratio": true, "hw_gpu_process_utilization_ratio": true,
}

// expectedValues are the GPU's values in the test library, in the final names and units.
func expectedValues(p *fakenvml.Profile, c *fakenvml.GPU) map[string]float64 {
	v := func(name string) float64 { return float64(c.Get(name)) }
	m := map[string]float64{
		"hw_gpu_memory_limit_bytes":                                               v("memory_total"),
		"hw_gpu_memory_usage_bytes":                                               v("memory_used"),
		"hw_gpu_memory_usage_max_bytes":                                           v("memory_used"),
		"hw_gpu_bar1_limit_bytes":                                                 v("bar1_total"),
		`hw_gpu_recovery_action{hw_gpu_recovery_action="none"}`:                   1,
		`hw_gpu_utilization_max_ratio{hw_gpu_task="general"}`:                     float64(p.Load.Series["gpu"]) / 100,
		"hw_gpu_memory_reserved_bytes":                                            v("memory_reserved"),
		"hw_gpu_memory_utilization_ratio":                                         v("memory_used") / (v("memory_total") - v("memory_reserved")),
		`hw_gpu_utilization_ratio{hw_gpu_task="general"}`:                         float64(p.Load.Series["gpu"]) / 100,
		`hw_gpu_utilization_ratio{hw_gpu_task="encoder"}`:                         float64(p.Load.Series["encoder"]) / 100,
		"hw_gpu_memory_bandwidth_utilization_ratio":                               float64(p.Load.Series["memory"]) / 100,
		`hw_temperature_celsius{hw_sensor_location="gpu"}`:                        v("temperature_gpu"),
		`hw_power_watts{hw_gpu_power_scope="instant"}`:                            float64(p.Load.Series["power"]) / 1000,
		`hw_gpu_power_limit_watts{hw_limit_type="enforced"}`:                      v("power_limit_enforced") / 1000,
		`hw_gpu_clock_frequency_hertz{hw_gpu_clock="graphics"}`:                   v("clock_graphics") * 1e6,
		`hw_gpu_clock_frequency_limit_hertz{hw_gpu_clock="memory"}`:               v("clock_max_memory") * 1e6,
		"hw_gpu_performance_state":                                                v("performance_state"),
		`hw_gpu_throttle_active{hw_gpu_throttle_reason="gpu_idle"}`:               float64(c.Get("throttle_reasons") & 1),
		`hw_gpu_pcie_link_generation{state="current"}`:                            v("pcie_generation"),
		`hw_gpu_pcie_link_width{state="max"}`:                                     v("pcie_width_max"),
		"hw_gpu_pcie_replays_total":                                               v("pcie_replays"),
		`hw_gpu_throttle_time_seconds_total{hw_gpu_throttle_reason="sync_boost"}`: 0,
		`hw_status{hw_state="ok"}`:                                                1,
		`hw_gpu_state{hw_state="healthy"}`:                                        1,
		`hw_gpu_state{hw_state="lost"}`:                                           0,
		"hw_gpu_up":                                                               1,
		"hw_gpu_info":                                                             1,
	}
	if p.NVLinks > 0 {
		m[`hw_gpu_nvlink_state{hw_gpu_nvlink_id="17"}`] = 1
		m[`hw_gpu_nvlink_io_bytes_total{hw_gpu_nvlink_id="3",network_io_direction="receive"}`] = 0
		m[`hw_gpu_nvlink_errors_total{hw_gpu_nvlink_id="0",error_type="crc_flit"}`] = 0
	}
	for id, query := range map[int]string{
		2: "hw_gpu_sm_active_ratio", 3: "hw_gpu_sm_occupancy_ratio", 5: `hw_gpu_pipe_active_ratio{hw_gpu_pipe="tensor"}`, 10: "hw_gpu_memory_active_ratio",
	} {
		if percent, ok := p.Load.GPM[id]; ok {
			m[query] = percent / 100
		}
	}
	if rate, ok := p.Load.GPM[20]; ok {
		m[`hw_gpu_io_rate_bytes_per_second{hw_gpu_link="pcie",network_io_direction="transmit"}`] = rate * (1 << 20)
	}
	busiest := p.Load.Processes[len(p.Load.Processes)-1]
	m[fmt.Sprintf(`hw_gpu_process_memory_usage_bytes{process_pid="%d"}`, busiest.PID)] = float64(busiest.MemoryMiB) * (1 << 20)
	m[fmt.Sprintf(`hw_gpu_process_utilization_ratio{process_pid="%d",hw_gpu_task="encoder"}`, busiest.PID)] = float64(busiest.Enc) / 100
	if p.Values["ecc_mode"] == 1 {
		m[`hw_errors_total{error_type="uncorrected",hw_gpu_memory_location="dram",hw_gpu_ecc_lifetime="aggregate"}`] = v("ecc_dram_uncorrected_aggregate")
	}
	if p.Values["fan_count"] > 0 {
		m[`hw_fan_speed_ratio{hw_name=~".*/fan0"}`] = v("fan_speed") / 100
	}
	return m
}

// checkExpectedValues asks for every figure under its final name and compares it.
func checkExpectedValues(t *testing.T, store stack.Store, m *machine) {
	t.Helper()
	eventually(t, store, "hw_gpu_up == 1", atLeast(len(m.gpus)))
	for i, gpu := range m.gpus {
		name := "gpu" + strconv.Itoa(i)
		for query, want := range expectedValues(m.profiles[i], gpu) {
			if !strings.Contains(query, "hw_name") {
				query = withLabel(query, fmt.Sprintf(`hw_name="%s"`, name))
			} else {
				query = strings.Replace(query, ".*/", name+"/", 1)
			}
			series := eventually(t, store, query, func(s []stack.Series) bool {
				return len(s) == 1 && near(s[0].Value(), want)
			})
			assert.Equal(t, "true", series[0].Labels["gpu_simulated"], query)
			assert.NotEmpty(t, series[0].Labels["instance"], query)
			assert.Equal(t, "otelcol-gpu", series[0].Labels["job"], query)
		}
	}
	names := eventually(t, store, `count by (__name__) ({job="otelcol-gpu"})`, atLeast(20))
	for _, s := range names {
		name := s.Labels["__name__"]
		if strings.HasSuffix(name, "_ratio") {
			assert.True(t, ratios[name], "%s is no ratio", name)
		}
	}
	unmarked, err := store.Query(context.Background(), `count by (__name__) ({__name__=~"hw_.*",gpu_simulated!="true"})`)
	require.NoError(t, err)
	assert.Empty(t, unmarked, "a series without the mark of simulated data")
}

func near(got, want float64) bool { return got-want <= 1e-9*want+1e-9 && want-got <= 1e-9*want+1e-9 }

func withLabel(query, label string) string {
	if before, after, ok := strings.Cut(query, "{"); ok {
		return before + "{" + label + "," + after
	}
	return query + "{" + label + "}"
}

func TestVictoriaMetricsHoldsWhatTheLibraryWasTold(t *testing.T) {
	beside(t, working)
	m := newMachine(t, fakenvml.Current, "rtx-4080-super", "h200", "l40s")
	for i, c := range m.gpus {
		c.SetLoad(m.profiles[i])
	}
	store := victoriaMetrics(t)
	collect(t, "default.yaml", append(m.environment, "OTELCOL_GPU_COLLECTION_INTERVAL=500ms", "OTELCOL_GPU_REMOTE_WRITE_ENDPOINT="+store.URL+"/api/v1/write"))
	checkExpectedValues(t, store, m)
}

func TestPrometheusHoldsWhatTheLibraryWasTold(t *testing.T) {
	beside(t, working)
	for _, version := range []string{"1", "2"} {
		t.Run("remote write "+version, func(t *testing.T) {
			m := newMachine(t, fakenvml.Current, "rtx-4080-super", "h100", "rtx-2080-super")
			for i, c := range m.gpus {
				c.SetLoad(m.profiles[i])
			}
			store, _ := prometheus(t, "10m")
			through := newGate(t, store.URL)
			arguments := []string{}
			if version == "2" {
				arguments = append(arguments, "--feature-gates=exporter.prometheusremotewritexporter.enableSendingRW2",
					"--config=yaml:exporters::prometheus_remote_write::protobuf_message: io.prometheus.write.v2.Request")
			}
			c := collect(t, "default.yaml", append(m.environment, "OTELCOL_GPU_COLLECTION_INTERVAL=500ms", "OTELCOL_GPU_REMOTE_WRITE_ENDPOINT="+through.url+"/api/v1/write"), arguments...)
			checkExpectedValues(t, store, m)
			kind, _ := through.kind.Load().(string)
			assert.Equal(t, version == "2", strings.Contains(kind, "io.prometheus.write.v2.Request"), kind)

			// The series of a lost GPU are marked stale at once, not after the look-back of five minutes.
			m.gpus[1].SetLost(true)
			begin := time.Now()
			eventually(t, store, `hw_gpu_memory_usage_bytes{hw_name="gpu1"}`, func(s []stack.Series) bool { return len(s) == 0 })
			assert.Less(t, time.Since(begin), 10*time.Second)
			eventually(t, store, `hw_gpu_up{hw_name="gpu1"} == 0`, atLeast(1))
			eventually(t, store, `hw_status{hw_name="gpu1",hw_state="failed"} == 1`, atLeast(1))
			eventually(t, store, `hw_gpu_memory_usage_bytes{hw_name="gpu0"}`, atLeast(1))
			m.gpus[1].SetLost(false)
			eventually(t, store, `hw_gpu_memory_usage_bytes{hw_name="gpu1"}`, atLeast(1))
			assert.Equal(t, 1, logLines(t, c.Process, "GPU is lost"))
		})
	}
}

// TestTwoMachinesKeepTheirSeriesApart runs a second collector under another
// host name: metrics that name no GPU differ by their instance.
func TestTwoMachinesKeepTheirSeriesApart(t *testing.T) {
	beside(t, working)
	store, _ := prometheus(t, "10m")
	hosts := []string{"node-a", "node-b"}
	for i, host := range hosts {
		m := newMachine(t, fakenvml.Current, []string{"l40s", "h100"}[i])
		c, all := collectorCommand(t, "default.yaml", append(m.environment, "OTELCOL_GPU_COLLECTION_INTERVAL=500ms", "OTELCOL_GPU_REMOTE_WRITE_ENDPOINT="+store.URL+"/api/v1/write"))
		arguments := []string{"--uts"}
		if os.Getuid() != 0 {
			arguments = []string{"--uts", "--map-root-user"}
		}
		arguments = append(arguments, "--", "sh", "-c", `echo "$0" >/proc/sys/kernel/hostname && exec "$@"`, host, binary())
		c.Process = start(t, host, "unshare", all.environment, append(arguments, all.arguments...)...)
		require.NoError(t, c.WaitHTTP(withPatience(t), all.health))
	}
	eventually(t, store, `hw_gpu_count{state="healthy"} == 1`, atLeast(2))
	all, err := store.Query(context.Background(), `count by (instance) ({__name__=~"hw_.*"})`)
	require.NoError(t, err)
	var instances []string
	for _, s := range all {
		instances = append(instances, s.Labels["instance"])
	}
	assert.ElementsMatch(t, hosts, instances)
}

var hang = flag.Duration("hang", 6*time.Second, "how long the GPU hangs in TestCardThatHangsCostsTheOthersNothing")

func TestGPUThatHangsCostsTheOthersNothing(t *testing.T) {
	beside(t, working)
	m := newMachine(t, fakenvml.Current, "l40s", "l40s", "l40s", "l40s", "l40s", "l40s", "l40s", "l40s")
	store, _ := prometheus(t, "10m")
	c := collect(t, "default.yaml", append(m.environment, "OTELCOL_GPU_COLLECTION_INTERVAL=500ms", "OTELCOL_GPU_REMOTE_WRITE_ENDPOINT="+store.URL+"/api/v1/write"))
	eventually(t, store, "hw_gpu_up == 1", atLeast(8))
	m.gpus[5].SetHang("nvmlDeviceGetMemoryInfo_v2", true)
	eventually(t, store, `hw_gpu_up{hw_name="gpu5"} == 0`, atLeast(1))
	eventually(t, store, `hw_gpu_state{hw_name="gpu5",hw_state="unresponsive"} == 1`, atLeast(1))
	eventually(t, store, `hw_temperature_celsius{hw_name="gpu5"}`, func(s []stack.Series) bool { return len(s) == 0 })
	began := time.Now()
	over := began.Add(*hang)
	require.Eventually(t, func() bool {
		s, err := store.Query(context.Background(), `timestamp(hw_gpu_up{hw_name="gpu5"})`)
		return err == nil && len(s) == 1 && s[0].Value() > float64(over.Unix()+1)
	}, *hang+patience, 100*time.Millisecond)

	// Every other GPU has a sample of every scrape; hw.gpu.count, which
	// reads no GPU, shows how many there were.
	window := int(hang.Seconds()) - 1
	scrapes, err := store.QueryAt(context.Background(), fmt.Sprintf(`count_over_time(hw_gpu_count{state="healthy"}[%ds])`, window), over)
	require.NoError(t, err)
	require.Len(t, scrapes, 1)
	assert.GreaterOrEqual(t, scrapes[0].Value(), float64(2*window)*0.9, "scrapes are on time")
	counts, err := store.QueryAt(context.Background(), fmt.Sprintf(`count_over_time(hw_temperature_celsius{hw_name!="gpu5"}[%ds])`, window), over)
	require.NoError(t, err)
	require.Len(t, counts, 7)
	for _, s := range counts {
		assert.InDelta(t, scrapes[0].Value(), s.Value(), 0, "%s missed a scrape", s.Labels["hw_name"])
	}
	took, err := c.Stop(10 * time.Second)
	require.NoError(t, err)
	assert.Less(t, took, 2*time.Second, "the end does not wait for the call that hangs")
}
