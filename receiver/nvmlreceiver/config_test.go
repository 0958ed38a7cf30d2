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
	assert.Equal(t, 2*time.Second, cfg.gpuTimeout())
	assert.True(t, cfg.ResourceAttributes.HostName.Enabled)
}

func TestGPUTimeoutFollowsAShortInterval(t *testing.T) {
	cfg, err := load(t, map[string]any{"collection_interval": "250ms"})
	require.NoError(t, err)
	assert.Equal(t, 250*time.Millisecond, cfg.gpuTimeout())
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

func TestUnknownKeysNameTheNearest(t *testing.T) {
	for key, want := range map[string]string{
		"card_timout": "card_timout: there is no such key: did you mean card_timeout?",
		"zzzzzzzzzzz": "it can be one of card_timeout, collection_interval",
	} {
		_, err := load(t, map[string]any{key: 1})
		require.ErrorContains(t, err, want)
	}
	_, err := load(t, map[string]any{"metrics": map[string]any{"zzzzzzzzzzzzzzzz": map[string]any{}}})
	require.ErrorContains(t, err, "metrics::zzzzzzzzzzzzzzzz: there is no such key: see the receiver's documentation")
	_, err = load(t, map[string]any{"devices": map[string]any{"whatsoever": 1}})
	require.ErrorContains(t, err, "devices::whatsoever: there is no such key: it can be one of exclude, include")
}

func FuzzDeviceNames(f *testing.F) {
	for _, seed := range []string{"0", "gpu12", "GPU-12345678-1234-1234-1234-123456789012", "MIG-GPU-1/2/3", "0000:01:00.0", "00000000:AF:00", "x", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		n, err := normalizeDevice(name)
		if err != nil {
			return
		}
		again, err := normalizeDevice(n)
		require.NoError(t, err, "the normal form of %q is not taken", name)
		assert.Equal(t, n, again)
		_ = newDeviceMatcher(DeviceFilter{Include: []string{name}}).wants(name, 0, name)
	})
}

func TestOnlyNamesTheMetricsThatAreEmitted(t *testing.T) {
	cfg, err := load(t, map[string]any{
		"only":    []any{"hw.energy", "hw.gpu.memory.usage"},
		"metrics": map[string]any{"hw.power": map[string]any{"enabled": true}},
	})
	require.NoError(t, err)
	assert.True(t, cfg.Metrics.HwEnergy.Enabled && cfg.Metrics.HwGpuMemoryUsage.Enabled)
	assert.True(t, cfg.Metrics.HwPower.Enabled, "metrics goes before")
	assert.False(t, cfg.Metrics.HwTemperature.Enabled || cfg.Metrics.HwGpuProcessMemoryUsage.Enabled || cfg.Metrics.HwStatus.Enabled)
	_, err = load(t, map[string]any{"only": []any{"hw.gpu.memory.usages"}})
	require.ErrorContains(t, err, "only::0: hw.gpu.memory.usages: there is no such key: did you mean hw.gpu.memory.usage?")
}
