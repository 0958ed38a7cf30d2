// SPDX-License-Identifier: Apache-2.0

package causes

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
	"github.com/otelcol-gpu/otelcol-gpu/internal/advice"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
	"github.com/otelcol-gpu/otelcol-gpu/internal/xid"
)

// withoutCause are the alerts that the page cannot see: those on the collector's own telemetry,
// and those that look back for longer than it does. The second ComfyUILatencySLO is the one
// of six hours.
var withoutCause = []string{
	"Watchdog none", "GPUTelemetryMissing critical", "GPUTelemetrySlow warning", "CollectorExportFailing warning", "CollectorBacklogGrowing warning",
	"CollectorDataDropped warning", "GPUMemoryLeakSuspected warning", "ComfyUILatencySLO warning",
}

// alert is an alert of alerts.yaml.
type alert struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

// shipped are the alerts that have a cause, by the cause's id.
func shipped(t *testing.T) map[string]alert {
	t.Helper()
	root, err := figure.Root()
	require.NoError(t, err)
	raw, err := os.ReadFile(filepath.Join(root, "deploy", "prometheus", "rules", "alerts.yaml"))
	require.NoError(t, err)
	var file struct {
		Groups []struct {
			Rules []alert `yaml:"rules"`
		} `yaml:"groups"`
	}
	require.NoError(t, yaml.Unmarshal(raw, &file))
	byCause, excepted := map[string]alert{}, 0
	for _, group := range file.Groups {
		for _, a := range group.Rules {
			if slices.Contains(withoutCause, a.Alert+" "+a.Labels["severity"]) {
				excepted++
				continue
			}
			i := slices.IndexFunc(Table, func(c Cause) bool { return c.Alert == a.Alert })
			require.GreaterOrEqual(t, i, 0, "%s has no cause, and is not among those that the page cannot see", a.Alert)
			require.NotContains(t, byCause, Table[i].ID, "%s is listed twice", a.Alert)
			byCause[Table[i].ID] = a
		}
	}
	require.Equal(t, len(withoutCause), excepted, "alerts that are excepted, and are not there")
	return byCause
}

func TestEachCauseAgreesWithItsAlert(t *testing.T) {
	alerts := shipped(t)
	severities := map[string]view.Severity{"critical": view.Broken, "warning": view.Warning, "info": view.Fine}
	for i := range Table {
		c := &Table[i]
		if c.Alert == "" {
			continue
		}
		a, ok := alerts[c.ID]
		require.True(t, ok, "%s: there is no alert %s", c.ID, c.Alert)
		assert.Equal(t, severities[a.Labels["severity"]], c.Severity, c.ID)
		assert.Equal(t, a.Annotations["runbook_url"], c.Runbook(), c.ID)
		holds, err := time.ParseDuration(a.For)
		require.NoError(t, err)
		assert.Equal(t, holds, c.For, c.ID)
		assert.LessOrEqual(t, c.After, max(c.For, spike), "%s: the page is not slower than the alert", c.ID)
		root, err := figure.Root()
		require.NoError(t, err)
		assert.FileExists(t, filepath.Join(root, "docs", "runbooks", c.Alert+".md"))
	}
}

// xidsOf are the XIDs of tiers, as a selector lists them.
func xidsOf(t *testing.T, tiers ...xid.Tier) string {
	t.Helper()
	c, err := xid.Load()
	require.NoError(t, err)
	var all []uint64
	for _, e := range c.XIDs {
		if slices.Contains(tiers, e.Tier) {
			all = append(all, e.XID)
		}
	}
	slices.Sort(all)
	var list []string
	for _, n := range all {
		list = append(list, strconv.FormatUint(n, 10))
	}
	return `hw_gpu_xid=~"` + strings.Join(list, "|") + `"`
}

// window is a range as PromQL writes it.
func window(d time.Duration) string {
	switch {
	case d%(24*time.Hour) == 0:
		return fmt.Sprintf("[%dd]", d/(24*time.Hour))
	case d%time.Hour == 0:
		return fmt.Sprintf("[%dh]", d/time.Hour)
	}
	return fmt.Sprintf("[%dm]", d/time.Minute)
}

// fragments are what the expression of an alert must hold, made of the fields of its rule.
func fragments(t *testing.T, r rule) []string {
	t.Helper()
	switch r := r.(type) {
	case memoryRule:
		return []string{fmt.Sprintf("/ hw_gpu_memory_limit_bytes > %v", r.share), "hw_gpu_memory_usage_bytes - on (hw_id) group_left () sum by (hw_id) (comfyui_memory_elastic_bytes)"}
	case shortageRule:
		return []string{"gpuadvisor_memory_shortage_bytes > 0"}
	case xidRule:
		all := []string{xidsOf(t, r.tiers...), window(eventWindow)}
		if r.orLeast > 0 {
			all = append(all, xidsOf(t, r.orTier)+fmt.Sprintf("}[1h]) >= %v", r.orLeast-0.5), fmt.Sprintf("} >= %v unless", r.orLeast))
		}
		if r.untilRecovered {
			all = append(all, "hw_gpu_recovery_action")
		}
		return all
	case lostRule:
		return []string{`hw_gpu_state{hw_state="lost"} == 1`}
	case stateRule:
		return []string{"== 1"}
	case eccRule:
		return []string{`hw_errors_total{error_type="uncorrected",hw_gpu_ecc_lifetime="volatile"}) > 0`}
	case recoveryRule:
		return []string{`hw_gpu_recovery_action!="none"} == 1`}
	case pagesRule:
		return []string{"hw_gpu_retired_pages_pending == 1", fmt.Sprintf(">= %v", r.least)}
	case throttleRule:
		return []string{fmt.Sprintf(`hw_gpu_throttle_reason=~"%s"}%s`, strings.Join(r.reasons, "|"), window(r.window)), fmt.Sprintf("> %v", r.share)}
	case temperatureRule:
		return []string{fmt.Sprintf("hw_gpu_temperature_margin_celsius < %v", r.margin), fmt.Sprintf("\n< %v\n", r.margin), "high.degraded"}
	case idleRule:
		return []string{fmt.Sprintf("hw_gpu_memory_usage_bytes > %.0f", r.memory), "hw_gpu_active_time_seconds_total" + window(r.window), fmt.Sprintf("< %v", r.busy), "hw_gpu_allocated"}
	case replayRule:
		return []string{fmt.Sprintf("60 * rate(hw_gpu_pcie_replays_total%s) > %v", window(r.window), r.perMinute)}
	case pcieRule:
		return []string{fmt.Sprintf(`hw_gpu_pcie_link_generation{state="current"}%s`, window(r.window)), fmt.Sprintf("> %v", r.load), `hw_gpu_pcie_link_width{state="current"}) < max`}
	case nvlinkDownRule:
		return []string{"hw_gpu_nvlink_state == 0", "max_over_time(hw_gpu_nvlink_state[1d]) == 1"}
	case nvlinkErrorRule:
		return []string{fmt.Sprintf("> %v", r.perMinute), `error_type!~"effective|symbol"}` + window(r.window)}
	case downRule:
		return []string{"comfyui_up == 0"}
	case outOfMemoryRule:
		return []string{`error_type="out_of_memory"}` + window(r.window)}
	case loadingRule:
		return []string{fmt.Sprintf("\n> %v", r.share), "comfyui_loading_time_seconds_total" + window(r.window), "comfyui_execution_duration_seconds_sum" + window(r.window)}
	case queueRule:
		return []string{fmt.Sprintf("comfyui_queue_oldest_wait_seconds > %v", r.wait), "deriv(comfyui_queue_oldest_wait_seconds" + window(r.window)}
	case stalledRule:
		return []string{fmt.Sprintf("> on (instance, comfyui_task_class) %v *", r.times), "comfyui_execution_duration_seconds_sum" + window(r.memory), "resets(comfyui_progress_age_seconds" + window(r.window), `comfyui_queue_length{state="pending"} > 0`}
	case errorRule:
		return []string{fmt.Sprintf("> %v", r.share), fmt.Sprintf(">= %d", r.least), fmt.Sprintf(`"%s|%s"}%s`, failed, lost, window(r.window)), fmt.Sprintf(`"%s|%s|%s"}%s`, success, failed, lost, window(r.window))}
	case latencyRule:
		return []string{fmt.Sprintf(`le=~"%v|`, r.objective), fmt.Sprintf("> %v", r.share), fmt.Sprintf(">= %d", r.least), window(r.short), window(r.long)}
	}
	require.Failf(t, "a rule without a comparison", "%T", r)
	return nil
}

// Neither the thresholds of the page nor those of the alerts drift.
func TestEachRuleHasTheThresholdsOfItsAlert(t *testing.T) {
	alerts := shipped(t)
	number := regexp.MustCompile(`[0-9]`)
	for i := range Table {
		c := &Table[i]
		if c.Alert == "" {
			continue
		}
		expr := strings.ReplaceAll(alerts[c.ID].Expr, "\n    ", "\n")
		expr = regexp.MustCompile(`(?m)^ +`).ReplaceAllString(expr, "")
		for _, f := range fragments(t, c.rule) {
			assert.Contains(t, expr, f, "%s: %s", c.ID, c.Alert)
		}
		require.Regexp(t, number, expr)
	}
}

// healthy are two GPUs in good health, with values where trouble would show.
const healthy = `
	hw.gpu.memory.limit{} 25769803776
	hw.gpu.memory.usage{} 8589934592
	hw.gpu.state{:hw.state=healthy} 1
	hw.gpu.state{:hw.state=lost} 0
	hw.gpu.state{:hw.state=unresponsive} 0
	hw.status{:hw.state=ok} 1
	hw.status{:hw.state=predicted_failure} 0
	hw.gpu.xid.errors{:hw.gpu.xid=79} 0
	hw.errors{:error.type=uncorrected,hw.gpu.ecc.lifetime=volatile,hw.gpu.memory.location=dram} 0
	hw.errors{:error.type=uncorrected,hw.gpu.ecc.lifetime=aggregate,hw.gpu.memory.location=dram} 7
	hw.errors{:error.type=corrected,hw.gpu.ecc.lifetime=volatile,hw.gpu.memory.location=dram} 7
	hw.gpu.row_remaps.failed{} 0
	hw.gpu.row_remaps.pending{} 0
	hw.gpu.recovery_action{:hw.gpu.recovery.action=none} 1
	hw.gpu.recovery_action{:hw.gpu.recovery.action=reset} 0
	hw.gpu.retired_pages.pending{} 0
	hw.gpu.retired_pages{:error.type=corrected} 40
	hw.gpu.retired_pages{:error.type=uncorrected} 19
	hw.temperature{:hw.sensor_location=gpu} 83
	hw.temperature.limit{:hw.limit_type=high.degraded} 88
	hw.gpu.pcie.link.width{:state=current} 16
	hw.gpu.pcie.link.width{:state=max} 16
	hw.gpu.nvlink.state{:hw.gpu.nvlink.id=0} 1
	hw.gpu.nvlink.state{:hw.gpu.nvlink.id=1} 0
	hw.gpu.memory.limit{1} 25769803776
	hw.gpu.memory.usage{1} 21474836480
	hw.gpu.state{1,hw.state=healthy} 1
	hw.gpu.temperature.margin{1} 20
	hw.temperature{1,hw.sensor_location=gpu} 60`

// with are the samples of healthy GPUs, but for some metrics.
func with(text string) string {
	var lines []string
	for line := range strings.Lines(healthy) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if name != "" && !strings.Contains(text, name+" ") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return strings.Join(lines, "\n") + "\n" + text
}

// rising is a counter that rises by so much a scrape.
func rising(w *world, metric string, by float64, d time.Duration) {
	w.scrapes(d, func(i int) { w.gpus(with(fmt.Sprintf("%s %v", metric, by*float64(i)))) })
}

// queue lets a queue exist for a while: i counts scrapes.
func queue(w *world, d time.Duration, text func(i int) string) {
	w.scrapes(d, func(i int) {
		w.gpus(healthy)
		w.servers("comfyui.up 1\n" + text(i))
	})
}

// cases cause each alert, and healthy values that are there.
var cases = []struct {
	cause     string
	bad, good func(w *world)
	en        string // what is shown
}{
	{
		cause: "gpu.memory.critical",
		bad:   func(w *world) { w.steady(15*time.Second, with("hw.gpu.memory.usage{1} 24803000000")) },
		good: func(w *world) { // full by design
			w.servers("comfyui.up 1\ncomfyui.memory.elastic{hw.id=GPU-b} 10000000000")
			w.steady(15*time.Second, with("hw.gpu.memory.usage{1} 24803000000"))
		},
		en: "gpu1 is almost out of memory: 23.1 GiB of 24.0 GiB (96 %) are in use.",
	},
	{
		cause: "gpu.memory.high",
		bad:   func(w *world) { w.steady(15*time.Second, with("hw.gpu.memory.usage{1} 22000000000")) },
		good:  func(w *world) { w.steady(15*time.Second, with("hw.gpu.memory.usage{1} 21904333209")) },
		en:    "gpu1 uses 20.5 GiB of 24.0 GiB (85 %) of its memory.",
	},
	{
		cause: "gpu.memory.short",
		bad:   func(w *world) { short(w, 3<<30, 2*time.Minute) },
		good:  func(w *world) { short(w, 3<<30, 45*time.Second) }, // for as long as a neighbour works
		en:    "gpu1 is 3.0 GiB short of the memory that ComfyUI's prompts of the last hour need.",
	},
	{
		cause: "gpu.xid.critical",
		bad: func(w *world) {
			w.steady(0, healthy)
			w.logs("hw.gpu.xid{hw.id=GPU-a,hw.gpu.xid=#119}")
			w.wait(time.Second)
		},
		good: func(w *world) {
			w.steady(0, healthy)
			w.logs("hw.gpu.xid{hw.id=GPU-a,hw.gpu.xid=#119}")
			w.steady(61*time.Minute, healthy) // an hour ago
		},
		en: "gpu0 reported XID 119 (GSP RPC timeout): it is unusable until it is reset or the host is rebooted.",
	},
	{
		cause: "gpu.xid.warning",
		bad: func(w *world) {
			w.steady(30*time.Second, healthy)
			w.steady(30*time.Second, with("hw.gpu.xid.errors{:hw.gpu.xid=13} 3"))
		},
		good: func(w *world) { w.steady(time.Minute, with("hw.gpu.xid.errors{:hw.gpu.xid=13} 2")) },
		en:   "gpu0 reported XID 13 (Graphics engine exception).",
	},
	{
		cause: "gpu.ecc.uncorrected",
		bad: func(w *world) {
			w.steady(0, with("hw.errors{:error.type=uncorrected,hw.gpu.ecc.lifetime=volatile,hw.gpu.memory.location=dram} 1"))
		},
		good: func(w *world) { w.steady(0, healthy) },
		en:   "gpu0 had 1 memory error that ECC could not correct.",
	},
	{
		cause: "gpu.row_remap.failed",
		bad:   func(w *world) { w.steady(0, with("hw.gpu.row_remaps.failed{} 1")) },
		good:  func(w *world) { w.steady(0, healthy) },
		en:    "gpu0 could not remap a faulty row of its memory.",
	},
	{
		cause: "gpu.recovery_action",
		bad: func(w *world) {
			w.steady(0, with("hw.gpu.recovery_action{:hw.gpu.recovery.action=none} 0\nhw.gpu.recovery_action{:hw.gpu.recovery.action=reset} 1"))
		},
		good: func(w *world) { w.steady(0, healthy) },
		en:   "The driver asks for an action to recover gpu0: reset.",
	},
	{
		cause: "gpu.row_remap.pending",
		bad:   func(w *world) { w.steady(0, with("hw.gpu.row_remaps.pending{} 1")) },
		good:  func(w *world) { w.steady(0, healthy) },
		en:    "gpu0 has a faulty row of memory that is remapped at the next reset.",
	},
	{
		cause: "gpu.pages.retired",
		bad:   func(w *world) { w.steady(0, with("hw.gpu.retired_pages{:error.type=uncorrected} 20")) },
		good:  func(w *world) { w.steady(0, healthy) },
		en:    "gpu0 has retired 60 pages of faulty memory.",
	},
	{
		cause: "gpu.predicted_failure",
		bad:   func(w *world) { w.steady(0, with("hw.status{:hw.state=predicted_failure} 1")) },
		good:  func(w *world) { w.steady(0, healthy) },
		en:    "gpu0 is likely to fail: its memory runs out of spare rows, or has many corrected errors.",
	},
	{
		cause: "gpu.throttled.heat",
		bad: func(w *world) {
			rising(w, "hw.gpu.throttle.time{:hw.gpu.throttle.reason=sw_thermal}", 3, 6*time.Minute)
		},
		good: func(w *world) {
			w.scrapes(6*time.Minute, func(i int) {
				w.gpus(with(fmt.Sprintf("hw.gpu.throttle.time{:hw.gpu.throttle.reason=sw_thermal} %v\nhw.gpu.throttle.time{:hw.gpu.throttle.reason=sw_power_cap} %v", 0.7*float64(i), 15*i)))
			})
		},
		en: "gpu0 was slowed down by heat for 20 % of the last 5 minutes.",
	},
	{
		cause: "gpu.throttled.power_brake",
		bad: func(w *world) {
			rising(w, "hw.gpu.throttle.time{:hw.gpu.throttle.reason=hw_power_brake}", 1.5, 6*time.Minute)
		},
		good: func(w *world) {
			rising(w, "hw.gpu.throttle.time{:hw.gpu.throttle.reason=hw_power_brake}", 0.7, 6*time.Minute)
		},
		en: "gpu0 was slowed down by the power brake for 10 % of the last 5 minutes.",
	},
	{
		cause: "gpu.temperature.near_limit",
		bad:   func(w *world) { w.steady(45*time.Second, with("hw.temperature{:hw.sensor_location=gpu} 86")) },
		good:  func(w *world) { w.steady(45*time.Second, with("hw.temperature{:hw.sensor_location=gpu} 85")) },
		en:    "gpu0 is at 86 °C and slows down at 88 °C.",
	},
	{
		cause: "gpu.lost",
		bad:   func(w *world) { w.steady(0, with("hw.gpu.state{:hw.state=healthy} 0\nhw.gpu.state{:hw.state=lost} 1")) },
		good:  func(w *world) { w.steady(0, healthy) },
		en:    "gpu0 is lost: the driver no longer reaches it.",
	},
	{
		cause: "gpu.unresponsive",
		bad: func(w *world) {
			w.steady(0, with("hw.gpu.state{:hw.state=healthy} 0\nhw.gpu.state{:hw.state=unresponsive} 1"))
		},
		good: func(w *world) { w.steady(0, healthy) },
		en:   "gpu0 does not respond: a driver call hangs.",
	},
	{
		cause: "gpu.idle",
		bad: func(w *world) {
			rising(w, "hw.gpu.active.time{:hw.gpu.task=general}", 0.1, 2*time.Hour+time.Minute)
		},
		good: func(w *world) { rising(w, "hw.gpu.active.time{:hw.gpu.task=general}", 0.2, 2*time.Hour+time.Minute) },
		en:   "gpu0 is reserved, with 8.0 GiB in use, and has done nothing for 2 h 1 min.",
	},
	{
		cause: "gpu.pcie.replays",
		bad:   func(w *world) { rising(w, "hw.gpu.pcie.replays{}", 3, 16*time.Minute) },
		good:  func(w *world) { rising(w, "hw.gpu.pcie.replays{}", 1.9, 16*time.Minute) },
		en:    "gpu0 retransmits 12 PCIe packets a minute.",
	},
	{
		cause: "gpu.pcie.degraded",
		bad: func(w *world) {
			w.steady(16*time.Minute, with("hw.gpu.pcie.link.generation{:state=current} 1\nhw.gpu.pcie.link.generation{:state=max} 4\nhw.gpu.utilization.mean{:hw.gpu.task=general} 0.6"))
		},
		good: func(w *world) { // idle
			w.steady(16*time.Minute, with("hw.gpu.pcie.link.generation{:state=current} 1\nhw.gpu.pcie.link.generation{:state=max} 4\nhw.gpu.utilization.mean{:hw.gpu.task=general} 0.4"))
		},
		en: "gpu0 runs at PCIe generation 1, and supports generation 4.",
	},
	{
		cause: "gpu.nvlink.down",
		bad: func(w *world) {
			w.steady(time.Minute, healthy)
			w.steady(time.Minute, with("hw.gpu.nvlink.state{:hw.gpu.nvlink.id=0} 0"))
		},
		good: func(w *world) { w.steady(time.Minute, healthy) }, // link 1 never was up
		en:   "NVLink 0 of gpu0 went down.",
	},
	{
		cause: "gpu.nvlink.errors",
		bad: func(w *world) { // 6 and 6 a minute
			w.scrapes(16*time.Minute, func(i int) {
				w.gpus(with(fmt.Sprintf("hw.gpu.nvlink.errors{:hw.gpu.nvlink.id=0,error.type=replay} %v\nhw.gpu.nvlink.errors{:hw.gpu.nvlink.id=0,error.type=crc_flit} %v", 1.5*float64(i), 1.5*float64(i))))
			})
		},
		good: func(w *world) {
			w.scrapes(16*time.Minute, func(i int) {
				w.gpus(with(fmt.Sprintf("hw.gpu.nvlink.errors{:hw.gpu.nvlink.id=0,error.type=replay} %v\nhw.gpu.nvlink.errors{:hw.gpu.nvlink.id=0,error.type=effective} %v", 2.4*float64(i), 100*i)))
			})
		},
		en: "NVLink 0 of gpu0 has 12 errors a minute.",
	},
	{
		cause: "comfyui.down",
		bad:   func(w *world) { w.steady(0, healthy); w.servers("comfyui.up 0"); w.evaluate() },
		good:  func(w *world) { w.steady(0, healthy); w.servers("comfyui.up 1"); w.evaluate() },
		en:    "ComfyUI node-1:8188 does not respond.",
	},
	{
		cause: "comfyui.out_of_memory",
		bad: func(w *world) {
			w.steady(0, healthy)
			for range 3 {
				w.prompt(func(p *Prompt) { p.Outcome, p.ErrorType, p.Side = failed, outOfMemory, 1280 })
				w.wait(30 * time.Second)
			}
			w.gpus(healthy)
			w.evaluate()
		},
		good: func(w *world) {
			w.steady(0, healthy)
			w.prompt(func(p *Prompt) { p.Outcome, p.ErrorType, p.Side = failed, "ValueError", 1280 })
			w.evaluate()
		},
		en: "gpu1 ran out of memory for 3 images of 1280 px in the last 2 minutes.",
	},
	{
		cause: "comfyui.stalled",
		bad: func(w *world) {
			queue(w, 10*time.Minute, func(i int) string { // 2 s each
				return fmt.Sprintf("comfyui.queue.length{state=pending} 1\ncomfyui.progress.age{comfyui.task_class=people} %d\ncomfyui.execution.duration{comfyui.task_class=people} 20/10", 15*i)
			})
		},
		good: func(w *world) {
			queue(w, 10*time.Minute, func(i int) string { // a long video
				return fmt.Sprintf("comfyui.queue.length{state=pending} 1\ncomfyui.progress.age{comfyui.task_class=people} %d\ncomfyui.execution.duration{comfyui.task_class=people} 2020/10", 15*i)
			})
		},
		en: "ComfyUI node-1:8188 is stalled: its prompt of class people has not progressed for 10 min, and others wait.",
	},
	{
		cause: "comfyui.queue.growing",
		bad: func(w *world) {
			queue(w, 5*time.Minute, func(i int) string {
				return fmt.Sprintf("comfyui.queue.length{state=pending} 7\ncomfyui.queue.oldest.wait %d", 5*i)
			})
		},
		good: func(w *world) { // long, and shrinking
			queue(w, 5*time.Minute, func(i int) string {
				return fmt.Sprintf("comfyui.queue.length{state=pending} 7\ncomfyui.queue.oldest.wait %d", 200-5*i)
			})
		},
		en: "7 prompts wait for ComfyUI node-1:8188: the oldest for 100 s, and the wait grows.",
	},
	{
		cause: "comfyui.errors",
		bad: func(w *world) {
			w.steady(0, healthy)
			for i := range 10 {
				w.prompt(func(p *Prompt) { p.Outcome = []string{failed, lost, success}[min(i, 2)] })
			}
			w.evaluate()
		},
		good: func(w *world) {
			w.steady(0, healthy)
			for i := range 40 { // clients' mistakes, and one error
				w.prompt(func(p *Prompt) {
					switch {
					case i == 0:
						p.Outcome = failed
					case i > 20:
						p.Outcome = []string{"cancelled", "rejected", "interrupted"}[i%3]
					}
				})
			}
			w.evaluate()
		},
		en: "2 of 10 prompts of ComfyUI node-1:8188 failed in the last 10 minutes.",
	},
	{
		cause: "comfyui.latency.critical",
		bad: func(w *world) {
			w.steady(0, healthy)
			for i := range 20 {
				w.prompt(func(p *Prompt) { p.Total = time.Duration(20+i) * time.Second * 2 })
			}
			w.evaluate()
		},
		good: func(w *world) {
			w.steady(0, healthy)
			for i := range 20 { // long ago, and few
				w.prompt(func(p *Prompt) { p.Total = time.Duration(25+i%10) * time.Second })
			}
			w.evaluate()
		},
		en: "100 % of the prompts of ComfyUI node-1:8188 took longer than 30 s, the wait included.",
	},
	{
		cause: "comfyui.loading",
		bad:   func(w *world) { loading(w, 800*time.Millisecond) },
		good:  func(w *world) { loading(w, 500*time.Millisecond) },
		en:    "ComfyUI node-1:8188 spent 40 % of its execution time in the last 15 minutes on loading models.",
	},
}

// short has gpu1 be short of memory for a while.
func short(w *world, bytes int64, d time.Duration) {
	w.scrapes(d, func(int) {
		w.gpus(healthy)
		w.m.SetLoads(map[string]advice.Load{"GPU-b": {Level: advice.Normal, Shortage: bytes}})
	})
}

// loading ends a prompt of 2 s every 15 s, which loaded models for a part of it.
func loading(w *world, part time.Duration) {
	w.scrapes(20*time.Minute, func(int) {
		w.gpus(healthy)
		w.prompt(func(p *Prompt) { p.Loading = part })
	})
}

func TestEachAlertHasItsCauseOnThePage(t *testing.T) {
	caused := map[string]bool{}
	for _, c := range cases {
		t.Run(c.cause, func(t *testing.T) {
			w := newWorld(t)
			c.bad(w)
			text, remedy := w.worded(c.cause, texts.English)
			assert.Equal(t, c.en, text, "shown: %v", w.shown())
			assert.NotEmpty(t, remedy)
			chinese, _ := w.worded(c.cause, texts.Chinese)
			assert.NotEmpty(t, chinese)
			assert.NotEqual(t, text, chinese)
			assert.NotContains(t, text+remedy+chinese, "{")
			if cause := Find(c.cause); cause.Severity != view.Fine {
				assert.Equal(t, c.en, w.verdict(texts.English))
			}

			w = newWorld(t)
			c.good(w)
			assert.False(t, w.shows(c.cause), "healthy, and shown: %v", w.shown())
			assert.NotEmpty(t, w.result.Verdict.Text.Key, "it was evaluated")
		})
		caused[c.cause] = true
	}
	alerts := shipped(t)
	for id := range alerts {
		assert.True(t, caused[id], "nothing causes %s (%s)", id, alerts[id].Alert)
	}
	figure.AtLeast("page.causes.rules", float64(len(caused)), "alerts", float64(len(alerts)))
}
