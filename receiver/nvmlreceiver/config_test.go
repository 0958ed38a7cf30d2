// SPDX-License-Identifier: Apache-2.0

package nvmlreceiver

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/confmap"
)

func load(t *testing.T, settings map[string]any) (*Config, error) {
	t.Helper()
	cfg := createDefaultConfig().(*Config)
	if err := confmap.NewFromStringMap(settings).Unmarshal(cfg); err != nil {
		return nil, err
	}
	return cfg, cfg.Validate()
}

func TestDefaults(t *testing.T) {
	cfg, err := load(t, nil)
	require.NoError(t, err)
	assert.Equal(t, 15*time.Second, cfg.CollectionInterval)
	assert.Equal(t, time.Second, cfg.gpuTimeout())
	assert.True(t, cfg.ResourceAttributes.HostName.Enabled)
}

func TestADeadlineIsThatOfACallAndMayBeLongerThanTheInterval(t *testing.T) {
	cfg, err := load(t, map[string]any{"collection_interval": "250ms"})
	require.NoError(t, err)
	assert.Equal(t, time.Second, cfg.gpuTimeout())
	cfg, err = load(t, map[string]any{"collection_interval": "200ms", "working_interval": "50ms", "card_timeout": "5s"})
	require.NoError(t, err)
	assert.Equal(t, 5*time.Second, cfg.gpuTimeout())
	assert.True(t, cfg.followsWork())
}

func TestEverySettingIsRead(t *testing.T) {
	cfg, err := load(t, map[string]any{
		"collection_interval": "10s", "initial_delay": "3s", "card_timeout": "1s", "library_path": "/opt/libnvidia-ml.so.1",
		"devices":           map[string]any{"include": []any{"GPU-12345678-aaaa", "0000:01:00.0"}, "exclude": []any{3}},
		"per_card_resource": true, "forget_lost_after": "24h", "exit_on_driver_upgrade": true,
		"metrics":             map[string]any{"hw.power": map[string]any{"enabled": false}},
		"resource_attributes": map[string]any{"host.name": map[string]any{"enabled": false}},
	})
	require.NoError(t, err)
	assert.Equal(t, 3*time.Second, cfg.InitialDelay)
	assert.Equal(t, time.Second, cfg.CardTimeout)
	assert.Equal(t, "/opt/libnvidia-ml.so.1", cfg.LibraryPath)
	assert.Equal(t, []string{"GPU-12345678-aaaa", "0000:01:00.0"}, cfg.Devices.Include)
	assert.Equal(t, []string{"3"}, cfg.Devices.Exclude, "an index needs no quotes")
	assert.True(t, cfg.PerCardResource && cfg.ExitOnDriverUpgrade)
	assert.Equal(t, 24*time.Hour, cfg.ForgetLostAfter)
	assert.False(t, cfg.Metrics.HwPower.Enabled)
	assert.True(t, cfg.Metrics.HwEnergy.Enabled)
	assert.False(t, cfg.ResourceAttributes.HostName.Enabled)
}

func TestMistakesAreListedWithKeyValueAndRemedy(t *testing.T) {
	for _, test := range []struct {
		given map[string]any
		want  string
	}{
		{map[string]any{"card_timout": 1}, "card_timout: unknown key; did you mean card_timeout?"},
		{map[string]any{"metrics": map[string]any{"zzzzzzzzzzzzzzzz": map[string]any{}}}, "metrics::zzzzzzzzzzzzzzzz: unknown key; see the component's README"},
		{map[string]any{"devices": map[string]any{"whatsoever": 1}}, "devices::whatsoever: unknown key; the keys here are exclude, include"},
		{map[string]any{"only": []any{"hw.gpu.memory.usages"}}, `only::0: "hw.gpu.memory.usages" is not a metric of this receiver; did you mean hw.gpu.memory.usage?`},
		{map[string]any{"card_timeout": "50ms"},
			"card_timeout: 50ms is shorter than 1s, and calls of the driver wait for one another; use 1s or more, or remove it; a scrape waits no longer than collection_interval anyway"},
		{map[string]any{"card_timeout": "-1s"},
			"card_timeout: -1s is shorter than 1s, and calls of the driver wait for one another; use 1s or more, or remove it; a scrape waits no longer than collection_interval anyway"},
		{map[string]any{"timeout": "500ms"}, "timeout: 500ms is shorter than a scrape waits for the GPUs (1s); raise timeout, or remove it"},
		{map[string]any{"working_interval": "1ms"},
			"working_interval: 1ms is not between 10ms and collection_interval (15s); use an interval such as 50ms beside a collection_interval of 200ms, or remove it"},
		{map[string]any{"sampling_interval": "1ms"}, "sampling_interval: 1ms is shorter than 10ms; use 10ms or more, or 0 to disable the sampler"},
		{map[string]any{"library_path": "lib/a.so"}, `library_path: "lib/a.so" is a relative path; use an absolute path, or a file name without a folder, for example libnvidia-ml.so.1`},
		{map[string]any{"devices": map[string]any{"include": []any{"x"}}}, `devices::include::0: "x" is not a valid GPU; use a UUID (GPU-…), an index (0 or gpu0) or a PCI address (0000:01:00.0)`},
		{map[string]any{"devices": map[string]any{"include": []any{0}, "exclude": []any{1, "gpu0"}}},
			`devices::exclude::1: "gpu0" is listed in devices::include too; remove it from one of the two lists`},
		{map[string]any{"processes": map[string]any{"limit": 0, "proc_path": "", "log_path": "a", "pod_resources_interval": "1ms"}, "forget_lost_after": "-1h"},
			"processes::limit: 0 is not between 1 and 4096; use a number of processes per GPU, or disable hw.gpu.process.memory.usage and hw.gpu.process.utilization\n" +
				"processes::proc_path: is empty; use the path of the host's procfs, for example /proc\n" +
				"processes::log_path: \"a\" is a relative path; use an absolute path\n" +
				"processes::pod_resources_interval: 1ms is shorter than 1s; use 1s or more, or set processes::pod_resources to \"\" to disable it\n" +
				"forget_lost_after: -1h0m0s is negative; use a positive duration, for example 24h, or 0 to keep lost GPUs"},
	} {
		_, err := load(t, test.given)
		require.ErrorContains(t, err, test.want)
	}
}

func FuzzDeviceNames(f *testing.F) {
	for _, seed := range []string{"0", "gpu12", "GPU-12345678-1234-1234-1234-123456789012", "MIG-GPU-1/2/3", "0000:01:00.0", "00000000:AF:00", "x", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		normal, fault, _ := normalizeDevice(name)
		if fault != "" {
			return
		}
		again, fault, _ := normalizeDevice(normal)
		assert.Empty(t, fault, "the normal form of %q is not valid", name)
		assert.Equal(t, normal, again)
		_ = newDeviceMatcher(DeviceFilter{Include: []string{name}}).matches(name, 0, name)
	})
}

func TestOnlyListsTheMetricsThatAreEmitted(t *testing.T) {
	cfg, err := load(t, map[string]any{
		"only":    []any{"hw.energy", "hw.gpu.memory.usage"},
		"metrics": map[string]any{"hw.power": map[string]any{"enabled": true}},
	})
	require.NoError(t, err)
	assert.True(t, cfg.Metrics.HwEnergy.Enabled && cfg.Metrics.HwGpuMemoryUsage.Enabled)
	assert.True(t, cfg.Metrics.HwPower.Enabled, "metrics takes precedence")
	assert.False(t, cfg.Metrics.HwTemperature.Enabled || cfg.Metrics.HwGpuProcessMemoryUsage.Enabled || cfg.Metrics.HwStatus.Enabled)
}
