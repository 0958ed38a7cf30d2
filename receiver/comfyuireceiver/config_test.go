// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/receiver/receivertest"
	"go.uber.org/zap"
	zapobserver "go.uber.org/zap/zaptest/observer"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/metadata"
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
	group := func(key string, inner map[string]any) map[string]any { return map[string]any{key: inner} }
	list := func(key string, item any) map[string]any { return map[string]any{key: []any{item}} }
	for _, test := range []struct {
		settings map[string]any
		want     string
	}{
		{map[string]any{"mod": "poll"}, `mod: unknown key; did you mean mode?`},
		{group("capture", map[string]any{"prompt_texts": true}), `capture::prompt_texts: unknown key; did you mean prompt_text?`},
		{group("limits", map[string]any{"promts": 1}), `limits::promts: unknown key; did you mean prompts?`},
		{group("proxy", map[string]any{"endpont": "x"}), `proxy::endpont: unknown key; did you mean endpoint?`},
		{group("proxy", map[string]any{"tls": map[string]any{"cert_fil": "x"}}), `proxy::tls::cert_fil: unknown key; did you mean cert_file?`},
		{group("upstream", map[string]any{"tls": map[string]any{"ca_fil": "x"}}), `upstream::tls::ca_fil: unknown key; did you mean ca_file?`},
		{group("proxy", map[string]any{"read_header_timeout": 5}), `proxy::read_header_timeout: 5 has no unit; use a duration with a unit, for example 5s`},
		{group("upstream", map[string]any{"timeout": 5}), `upstream::timeout: 5 has no unit; use a duration with a unit, for example 5s`},
		{map[string]any{"drain_timeout": 5}, `drain_timeout: 5 has no unit; use a duration with a unit, for example 5s`},
		{map[string]any{"mode": "sniff"}, `mode: "sniff" is not a valid mode; use proxy or poll`},
		{group("upstream", map[string]any{"endpoint": "comfyui:8188"}), `upstream::endpoint: "comfyui:8188" is not a valid URL; use http://host:port, for example http://127.0.0.1:8188`},
		{map[string]any{"collection_interval": "1ms"}, `collection_interval: 1ms is shorter than 100ms; use a duration of at least 100ms, for example 15s`},
		{map[string]any{"poll_interval": "0s"}, `poll_interval: 0s is shorter than 100ms; use a duration of at least 100ms, for example 2s`},
		{map[string]any{"drain_timeout": "-1s"}, `drain_timeout: -1s is negative; use a duration, for example 2s, or 0 to close open requests at once`},
		{map[string]any{"device": "card0"}, `device: "card0" is not a valid GPU; use auto, a UUID (GPU-… or MIG-…), an index (0 or gpu0), or an empty text to omit hw.id`},
		{list("sizing", map[string]any{"size": "x"}), `sizing::0::node: is empty; use a node class, for example EmptyLatentImage, or a pattern, for example KSampler*`},
		{list("sizing", map[string]any{"node": "[", "size": "x"}), `sizing::0::node: "[" is not a valid pattern; *, ? and [a-z] have a meaning in patterns; write \[ for a bracket`},
		{list("sizing", map[string]any{"node": "A", "size": "x", "width": "y"}), `sizing::0: size cannot be combined with width or height; size names one input for both, so remove it or the others`},
		{list("sizing", map[string]any{"node": "A"}), `sizing::0: the rule names no input; set size, width and height, batch, model or steps`},
		{list("task_classes", map[string]any{"min_side": 5}), `task_classes::0::name: is empty; give the class a name`},
		{list("task_classes", map[string]any{"name": "x", "min_side": 5, "max_side": 4}), `task_classes::0::min_side: 5 is greater than max_side; swap the two, or leave one out`},
		{list("task_classes", map[string]any{"name": "x", "model": "["}), `task_classes::0::model: "[" is not a valid pattern; *, ? and [a-z] have a meaning in patterns; write \[ for a bracket`},
		{group("capture", map[string]any{"redact": []any{"("}}), `capture::redact::0: "(" is not a valid regular expression; use Go's syntax, for example secret-\d+`},
		{group("limits", map[string]any{"queue": 0}), `limits::queue: 0 is less than 1; use a positive number, or omit the key for the default`},
		{map[string]any{"mode": "x", "limits": map[string]any{"queue": 0, "models": 0}}, `mode: "x" is not a valid mode; use proxy or poll
limits::models: 0 is less than 1; use a positive number, or omit the key for the default
limits::queue: 0 is less than 1; use a positive number, or omit the key for the default`},
	} {
		_, err := load(test.settings)
		require.ErrorContains(t, err, test.want)
	}
}

func TestSettingsOfTheProxyAreIgnoredInPollMode(t *testing.T) {
	settings := map[string]any{
		"own_sockets": false, "poll_interval": "5s", "proxy": map[string]any{"endpoint": "127.0.0.1:1"},
		"limits": map[string]any{"kept_sockets": 5, "queue": 7}, "admission": map[string]any{"mode": modeObserve, "trust_request_class": true},
	}
	cfg, err := load(settings)
	require.NoError(t, err)
	assert.Empty(t, cfg.ignoredKeys())
	settings["mode"] = modePoll
	cfg, err = load(settings)
	require.NoError(t, err)
	require.Equal(t, []string{"admission::mode", "limits::kept_sockets", "own_sockets", "proxy::endpoint"}, cfg.ignoredKeys())

	core, logged := zapobserver.New(zap.WarnLevel)
	set := receivertest.NewNopSettings(metadata.Type)
	set.Logger = zap.New(core)
	cfg.Device = ""
	r := newReceiver(set, cfg)
	require.NoError(t, r.Start(t.Context(), componenttest.NewNopHost()))
	require.NoError(t, r.Shutdown(t.Context()))
	warnings := logged.FilterMessage("These settings have no effect in poll mode; remove them, or set mode: proxy").All()
	require.Len(t, warnings, 1)
	assert.Equal(t, []any{"admission::mode", "limits::kept_sockets", "own_sockets", "proxy::endpoint"}, warnings[0].ContextMap()["keys"])
}
