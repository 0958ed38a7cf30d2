// SPDX-License-Identifier: Apache-2.0

package alerts

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
	"github.com/otelcol-gpu/otelcol-gpu/internal/configkeys"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/growth"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorded is what a real server answered: Alertmanager 0.34.2, to which a Prometheus sent the
// alerts that it lists itself.
func recorded(t *testing.T, source string) []byte {
	t.Helper()
	raw, err := os.ReadFile("testdata/" + source + ".json")
	require.NoError(t, err)
	return raw
}

func TestTheAnswersOfRealServersAreRead(t *testing.T) {
	for _, source := range []string{Alertmanager, Prometheus} {
		firing, err := parse(recorded(t, source), source, "")
		require.NoError(t, err)
		require.Len(t, firing, 3, "%s: not the Watchdog, and not what is pending", source)
		var order []string
		for _, a := range firing {
			order = append(order, a.Severity+" "+a.Name)
			assert.Equal(t, 2026, a.Since.Year())
			assert.NotEmpty(t, a.Summary)
		}
		assert.Equal(t, []string{"critical ComfyUIDown", "critical GPULost", "warning ComfyUIQueueGrowing"}, order, source)
		assert.Equal(t, "https://github.com/otelcol-gpu/otelcol-gpu/blob/main/docs/runbooks/GPULost.md", firing[1].Runbook)
		assert.Empty(t, firing[2].Runbook, "a script is not a link")
	}
}

func TestAlertsOfOtherHostsAreLeftOut(t *testing.T) {
	for _, source := range []string{Alertmanager, Prometheus} {
		firing, err := parse(recorded(t, source), source, "node-1")
		require.NoError(t, err)
		require.Len(t, firing, 2)
		assert.Equal(t, "GPULost", firing[0].Name)
		assert.Equal(t, "ComfyUIQueueGrowing", firing[1].Name, "of a server on this host")
	}
	assert.True(t, (&alert{}).isOf("node-1"), "of no host")
}

func TestTheAnswersOfStrangersAreBounded(t *testing.T) {
	var all []map[string]any
	for i := range 500 {
		all = append(all, map[string]any{"labels": map[string]string{"alertname": fmt.Sprintf("A%d", i), "severity": "warning"}, "annotations": map[string]string{
			"summary": strings.Repeat("x", 5000), "runbook_url": "https://example/" + strings.Repeat("y", 5000),
		}})
	}
	body, err := json.Marshal(all)
	require.NoError(t, err)
	firing, err := parse(body, Alertmanager, "")
	require.NoError(t, err)
	assert.Len(t, firing, maxAlerts)
	assert.LessOrEqual(t, len(firing[0].Summary), maxText)
	assert.Empty(t, firing[0].Runbook)
	for _, bad := range []string{"", "{", `{"status":"error"}`, `{"status":"success"}`, "[]", `{"data":{"alerts":[]}}`} {
		_, err := parse([]byte(bad), Prometheus, "")
		assert.ErrorIs(t, err, errAnswer, bad)
	}
	_, err = parse([]byte(`{"status":"success","data":{"alerts":[]}}`), Alertmanager, "")
	assert.ErrorIs(t, err, errAnswer, "the source is another")
}

// server answers as its test says.
func server(t *testing.T, answer func(w http.ResponseWriter, r *http.Request)) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(answer))
	t.Cleanup(s.Close)
	return s.URL
}

// started is a poller of a server.
func started(t *testing.T, endpoint string, change func(*Config)) (*Poller, *observer.ObservedLogs) {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Client.Endpoint, cfg.Interval, cfg.AllHosts = endpoint, 10*time.Millisecond, true
	if change != nil {
		change(&cfg)
	}
	core, logs := observer.New(zap.InfoLevel)
	telemetry := componenttest.NewNopTelemetrySettings()
	telemetry.Logger = zap.New(core)
	p := New(cfg, telemetry)
	require.NoError(t, p.Start(t.Context(), componenttest.NewNopHost()))
	t.Cleanup(p.Shutdown)
	return p, logs
}

// eventually waits for what is shown.
func eventually(t *testing.T, p *Poller, is func(v *view.Alerts) bool) *view.Alerts {
	t.Helper()
	var last *view.Alerts
	require.Eventually(t, func() bool {
		last = p.View(texts.English)
		return is(last)
	}, 10*time.Second, 5*time.Millisecond, "%+v", last)
	return last
}

func TestThePollerShowsWhatFires(t *testing.T) {
	var asked atomic.Value
	endpoint := server(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r.URL.String())
		_, _ = w.Write(recorded(t, Alertmanager))
	})
	p, _ := started(t, strings.Replace(endpoint, "http://", "http://user:secret@", 1)+"/prefix/", nil)
	v := eventually(t, p, func(v *view.Alerts) bool { return len(v.Firing) == 3 })
	assert.Empty(t, v.Error)
	assert.Equal(t, endpoint+"/prefix/", v.Source, "without the password")
	assert.Equal(t, "/prefix/api/v2/alerts?active=true&inhibited=false&silenced=false", asked.Load())
	require.NoError(t, growth.Within(p.Bounds()))
	assert.True(t, growth.Used(p.Bounds())["alerts.Poller.firing"])
	p.Shutdown()

	p, _ = started(t, server(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r.URL.String())
		_, _ = w.Write(recorded(t, Prometheus))
	}), func(c *Config) { c.Source = Prometheus })
	eventually(t, p, func(v *view.Alerts) bool { return len(v.Firing) == 3 })
	assert.Equal(t, "/api/v1/alerts", asked.Load())
}

func TestAFailureIsShownAndLoggedOnce(t *testing.T) {
	var answer atomic.Int64
	p, logs := started(t, server(t, func(w http.ResponseWriter, _ *http.Request) {
		switch answer.Load() {
		case 0:
			_, _ = w.Write(recorded(t, Alertmanager))
		case 1:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 2:
			_, _ = w.Write([]byte("<html>"))
		default:
			_, _ = w.Write(append(recorded(t, Alertmanager), bytes.Repeat([]byte(" "), maxBody)...))
		}
	}), nil)
	eventually(t, p, func(v *view.Alerts) bool { return len(v.Firing) == 3 })
	for n, want := range []string{1: "it responded with status 503", 2: "its answer is not a list of alerts; check endpoint and source", 3: "its answer is not a list of alerts; check endpoint and source"} {
		if want == "" {
			continue
		}
		answer.Store(int64(n))
		v := eventually(t, p, func(v *view.Alerts) bool { return v.Error == want })
		assert.Empty(t, v.Firing, "what fired before may have ended")
		require.Eventually(t, func() bool { return logs.FilterMessageSnippet("Cannot read").Len() == n }, 10*time.Second, 5*time.Millisecond)
	}
	assert.Equal(t, "应答不是告警列表，请检查 endpoint 和 source", p.View(texts.Chinese).Error)
	answer.Store(0)
	eventually(t, p, func(v *view.Alerts) bool { return len(v.Firing) == 3 && v.Error == "" })
	assert.Equal(t, 3, logs.FilterMessageSnippet("Cannot read").Len())
	assert.Equal(t, 1, logs.FilterMessageSnippet("again").Len())
}

// TestAFailureIsASentence together with what the page puts before it: it does not say that a server which
// responded does not respond.
func TestAFailureIsASentence(t *testing.T) {
	const source = "http://127.0.0.1:9093"
	for l, all := range map[texts.Language]map[error]string{
		texts.English: {
			errors.New("connection refused"): "Cannot read alerts from http://127.0.0.1:9093: it cannot be reached; see the collector's log.",
			errStatus(503):                   "Cannot read alerts from http://127.0.0.1:9093: it responded with status 503.",
			errAnswer:                        "Cannot read alerts from http://127.0.0.1:9093: its answer is not a list of alerts; check endpoint and source.",
		},
		texts.Chinese: {
			errors.New("connection refused"): "无法从 http://127.0.0.1:9093 读取告警：无法连接，原因见采集器日志。",
			errStatus(503):                   "无法从 http://127.0.0.1:9093 读取告警：返回状态码 503。",
			errAnswer:                        "无法从 http://127.0.0.1:9093 读取告警：应答不是告警列表，请检查 endpoint 和 source。",
		},
	} {
		for err, want := range all {
			failure := failureOf(err)
			assert.Equal(t, want, texts.Message{Key: "page.alerts.error", Args: texts.Args{"source": source, "error": failure}}.In(l))
		}
	}
	waiting := texts.Message{Key: "alerts.waiting"}
	assert.Equal(t, "Cannot read alerts from http://127.0.0.1:9093: no answer yet.", texts.Message{Key: "page.alerts.error", Args: texts.Args{"source": source, "error": waiting}}.In(texts.English))
}

func TestAServerThatIsAwayIsShown(t *testing.T) {
	p, _ := started(t, "http://127.0.0.1:1", nil)
	eventually(t, p, func(v *view.Alerts) bool { return strings.HasPrefix(v.Error, "it cannot be reached") })
}

// A server that does not answer must not delay the end of the collector.
func TestShutdownEndsAQuestion(t *testing.T) {
	asked, released := make(chan struct{}), make(chan struct{})
	var once atomic.Bool
	endpoint := server(t, func(_ http.ResponseWriter, r *http.Request) {
		if once.CompareAndSwap(false, true) {
			close(asked)
		}
		select {
		case <-r.Context().Done():
		case <-released:
		}
	})
	defer close(released)
	p, _ := started(t, endpoint, func(c *Config) { c.Client.Timeout = time.Minute })
	<-asked
	assert.Equal(t, "no answer yet", p.View(texts.English).Error)
	began := time.Now()
	p.Shutdown()
	assert.Less(t, time.Since(began), 5*time.Second)
}

func TestNobodyIsAskedWithoutAnEndpoint(t *testing.T) {
	p, _ := started(t, "", nil)
	assert.Nil(t, p.View(texts.English))
	p.Shutdown()
}

func TestMistakesAreFoundWithTheirRemedy(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"alerts::endpoint": func(c *Config) { c.Client.Endpoint = "localhost:9093" },
		"alerts::source":   func(c *Config) { c.Source = "grafana" },
		"alerts::interval": func(c *Config) { c.Interval = time.Millisecond },
	} {
		cfg := DefaultConfig()
		cfg.Client.Endpoint = "http://127.0.0.1:9093"
		var p configkeys.Problems
		cfg.Check(&p, "alerts")
		require.NoError(t, p.Err())
		change(&cfg)
		cfg.Check(&p, "alerts")
		require.ErrorContains(t, p.Err(), want)
	}
	cfg := DefaultConfig()
	cfg.Source = "unused"
	var p configkeys.Problems
	cfg.Check(&p, "alerts")
	assert.NoError(t, p.Err(), "nobody is asked")
}

func TestAnEndpointThatCannotBeUsedEndsTheStart(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Client.Endpoint = "http://[::1"
	require.Error(t, New(cfg, componenttest.NewNopTelemetrySettings()).Start(t.Context(), componenttest.NewNopHost()))
	for _, key := range []string{"alerts.waiting", "alerts.unreachable", "alerts.status", "alerts.answer"} {
		assert.Contains(t, texts.Keys(texts.English), key)
	}
	assert.Equal(t, "alerts.unreachable", failureOf(errors.New("x")).Key)
}
