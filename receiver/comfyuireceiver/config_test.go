// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/confmap"
)

func load(settings map[string]any) (*Config, error) {
	cfg := createDefaultConfig().(*Config)
	if err := confmap.NewFromStringMap(settings).Unmarshal(cfg); err != nil {
		return nil, err
	}
	return cfg, cfg.Validate()
}

func TestDefaultsSuitAProxy(t *testing.T) {
	cfg, err := load(nil)
	require.NoError(t, err)
	assert.Equal(t, "127.0.0.1:8189", cfg.Proxy.NetAddr.Endpoint)
	assert.Zero(t, cfg.Proxy.WriteTimeout, "sockets and streams take their time")
	assert.Zero(t, cfg.Proxy.ReadTimeout)
	assert.Greater(t, cfg.Proxy.MaxRequestBodySize, int64(100<<20))
	assert.Equal(t, "auto", cfg.Device)
}

func TestSettingsAreRead(t *testing.T) {
	cfg, err := load(map[string]any{
		"mode":         "poll",
		"proxy":        map[string]any{"endpoint": "127.0.0.1:9000"},
		"upstream":     map[string]any{"endpoint": "http://10.0.0.1:8188", "tls": map[string]any{"insecure": true}},
		"storage":      "file_storage",
		"device":       "GPU-12345678-aaaa",
		"sizing":       []any{map[string]any{"node": "Mine*", "size": "side", "steps": "n"}},
		"task_classes": []any{map[string]any{"name": "large", "min_side": 2000}},
		"capture":      map[string]any{"prompt_text": true, "redact": []any{"secret"}},
		"limits":       map[string]any{"prompts": 7},
	})
	require.NoError(t, err)
	assert.Equal(t, modePoll, cfg.Mode)
	assert.Equal(t, "127.0.0.1:9000", cfg.Proxy.NetAddr.Endpoint)
	assert.Greater(t, cfg.Proxy.MaxRequestBodySize, int64(100<<20), "what is not named keeps the proxy's default")
	assert.Zero(t, cfg.Proxy.WriteTimeout)
	assert.Equal(t, 15*time.Second, cfg.CollectionInterval)
	assert.Equal(t, "file_storage", cfg.Storage.String())
	assert.Equal(t, "side", cfg.Sizing[0].Size)
	assert.Equal(t, 7, cfg.Limits.Prompts)
	assert.Equal(t, []string{"secret"}, cfg.Capture.Redact)
	for given, want := range map[any]string{0: "0", "gpu1": "gpu1", "MIG-12ab": "MIG-12ab"} {
		cfg, err := load(map[string]any{"device": given})
		require.NoError(t, err)
		assert.Equal(t, want, cfg.Device)
	}
}

func TestMistakesNameTheKeyTheValueAndTheRemedy(t *testing.T) {
	for _, test := range []struct {
		settings map[string]any
		want     []string
	}{
		{map[string]any{"mod": "poll"}, []string{"mod: there is no such key", "did you mean mode?"}},
		{map[string]any{"capture": map[string]any{"prompt_texts": true}}, []string{"capture::prompt_texts", "did you mean prompt_text?"}},
		{map[string]any{"limits": map[string]any{"promts": 1}}, []string{"limits::promts", "did you mean prompts?"}},
		{map[string]any{"proxy": map[string]any{"endpont": "x"}}, []string{"endpont"}},
		{map[string]any{"mode": "sniff"}, []string{`mode: "sniff"`, "proxy", "poll"}},
		{map[string]any{"upstream": map[string]any{"endpoint": "comfyui:8188"}}, []string{"upstream::endpoint", "comfyui:8188", "http://127.0.0.1:8188"}},
		{map[string]any{"collection_interval": "1ms"}, []string{"collection_interval", "1ms", "15s"}},
		{map[string]any{"poll_interval": "0s"}, []string{"poll_interval"}},
		{map[string]any{"drain_timeout": "-1s"}, []string{"drain_timeout", "-1s"}},
		{map[string]any{"device": "card0"}, []string{`device: "card0"`, "GPU-"}},
		{map[string]any{"sizing": []any{map[string]any{"size": "x"}}}, []string{"sizing::0::node", "EmptyLatentImage"}},
		{map[string]any{"sizing": []any{map[string]any{"node": "["}}}, []string{"sizing::0::node", "pattern"}},
		{map[string]any{"sizing": []any{map[string]any{"node": "A", "size": "x", "width": "y"}}}, []string{"sizing::0", "remove"}},
		{map[string]any{"sizing": []any{map[string]any{"node": "A"}}}, []string{"sizing::0", "names no input"}},
		{map[string]any{"task_classes": []any{map[string]any{"min_side": 5}}}, []string{"task_classes::0::name"}},
		{map[string]any{"task_classes": []any{map[string]any{"name": "x", "min_side": 5, "max_side": 4}}}, []string{"task_classes::0", "fit no image"}},
		{map[string]any{"capture": map[string]any{"redact": []any{"("}}}, []string{"capture::redact::0", `"("`}},
		{map[string]any{"limits": map[string]any{"queue": 0}}, []string{"limits::queue", "positive"}},
	} {
		_, err := load(test.settings)
		for _, want := range test.want {
			require.ErrorContains(t, err, want, "%v", test.settings)
		}
	}
}
