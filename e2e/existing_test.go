// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.yaml.in/yaml/v3"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakecomfyui"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/lab/simulation"
)

var fencePattern = regexp.MustCompile("(?s)```([a-z]+)\n(.*?)```")

// existingPage is docs/existing.md, followed in a folder that stands for the root of the file
// system: its files are written, its commands are run, but for those that start a server.
type existingPage struct {
	folder     string
	text       string
	queries    map[string]string   // by language
	prometheus []string            // the command that starts Prometheus
	collectors map[string][]string // what the collectors' commands set in the environment, by variable
}

// at is a text of the page with its files in the folder.
func (p *existingPage) at(text string) string {
	return strings.ReplaceAll(text, "/etc/", p.folder+"/etc/")
}

func (p *existingPage) run(t *testing.T, name string, arguments, environment []string) string {
	t.Helper()
	cmd := exec.Command(name, arguments...)
	cmd.Dir, cmd.Env = root, append(os.Environ(), environment...)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s %q: %s", name, arguments, out)
	return string(out)
}

// write writes a file of the page, which its first line names, and checks those that no
// command of the page checks.
func (p *existingPage) write(t *testing.T, text string) {
	t.Helper()
	first, _, _ := strings.Cut(text, "\n")
	name := strings.TrimPrefix(first, "# ")
	require.Regexp(t, `^[/a-z.-]+\.ya?ml$`, name, "the first line of a file of the page names it: %s", text)
	file := filepath.Join(p.folder, name)
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o700))
	require.NoError(t, os.WriteFile(file, []byte(p.at(text)), 0o600))
	switch name {
	case "/etc/prometheus/prometheus.yml", "/etc/alertmanager/alertmanager.yml", "/etc/otelcol-gpu/stores.yaml": // commands of the page use them
	case "prometheus.yml":
		rules, err := os.ReadFile(filepath.Join(root, "deploy", "prometheus", "rules", "article.yaml"))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(p.folder, "etc", "prometheus", "article.yaml"), rules, 0o600))
		require.Contains(t, p.run(t, tool(t, "promtool"), []string{"check", "config", file}, nil), "1 rule files found")
	case "tempo.yaml":
		// Tempo embeds the collector's receivers: their part is checked by ours.
		var tempo struct {
			Distributor map[string]any `yaml:"distributor"`
		}
		require.NoError(t, yaml.Unmarshal([]byte(text), &tempo))
		require.NotEmpty(t, tempo.Distributor["receivers"])
		tempo.Distributor["exporters"] = map[string]any{"debug": nil}
		tempo.Distributor["service"] = map[string]any{"pipelines": map[string]any{"traces": map[string]any{"receivers": []string{"otlp"}, "exporters": []string{"debug"}}}}
		raw, err := yaml.Marshal(tempo.Distributor)
		require.NoError(t, err)
		p.run(t, binary(), []string{"validate", "--config=yaml:" + string(raw)}, nil)
	default:
		t.Errorf("nothing checks the file %s of the page", name)
	}
}

// command runs a command of the page, and only checks one that starts a collector.
func (p *existingPage) command(t *testing.T, line string) {
	t.Helper()
	words := strings.Fields(p.at(line))
	var environment []string
	for len(words) > 0 && strings.HasPrefix(words[0], "OTELCOL_GPU_") {
		key, value, _ := strings.Cut(words[0], "=")
		environment, p.collectors[key] = append(environment, words[0]), append(p.collectors[key], value)
		words = words[1:]
	}
	switch words[0] {
	case "otelcol-gpu":
		configs := ""
		for i, w := range words {
			if w == "--config" {
				raw, err := os.ReadFile(filepath.Join(root, words[i+1]))
				if filepath.IsAbs(words[i+1]) {
					raw, err = os.ReadFile(words[i+1])
				}
				require.NoError(t, err)
				configs += string(raw)
			}
		}
		for _, e := range environment {
			key, _, _ := strings.Cut(e, "=")
			require.Contains(t, configs, "${env:"+key+":-", "no configuration of the command reads it: %s", line)
		}
		p.run(t, binary(), append([]string{"validate"}, words[1:]...), environment)
	case "prometheus":
		p.prometheus = words[1:]
	case "promtool", "amtool":
		p.run(t, tool(t, words[0]), words[1:], nil)
	case "mkdir", "cp":
		p.run(t, "bash", []string{"-ec", p.at(line)}, nil)
	default:
		t.Errorf("nothing runs the command %s of the page", line)
	}
}

// followExisting writes and runs what the page has, in its order.
func followExisting(t *testing.T) *existingPage {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(root, "docs", "existing.md"))
	require.NoError(t, err)
	p := &existingPage{folder: t.TempDir(), text: string(raw), queries: map[string]string{}, collectors: map[string][]string{}}
	for _, block := range fencePattern.FindAllStringSubmatch(p.text, -1) {
		switch block[1] {
		case "yaml":
			p.write(t, block[2])
		case "console":
			for line := range strings.Lines(block[2]) {
				p.command(t, strings.TrimSpace(line))
			}
		case "traceql", "logql":
			p.queries[block[1]] = block[2]
		default:
			t.Errorf("nothing checks the blocks of language %s", block[1])
		}
	}
	require.NotEmpty(t, p.prometheus)
	require.Len(t, p.queries, 2)
	return p
}

// TestAlertsOfThePageOnExistingServersReachTheirReceivers asks amtool for the receiver of each
// alert, and Alertmanager which alerts a silent host inhibits.
func TestAlertsOfThePageOnExistingServersReachTheirReceivers(t *testing.T) {
	beside(t, working)
	config := filepath.Join(followExisting(t).folder, "etc", "alertmanager", "alertmanager.yml")
	receiver := func(name, severity string) string {
		out, err := exec.Command(tool(t, "amtool"), "config", "routes", "test", "--config.file="+config, "alertname="+name, "severity="+severity).CombinedOutput()
		require.NoError(t, err, string(out))
		return strings.TrimSpace(string(out))
	}
	raw, err := os.ReadFile(filepath.Join(root, "deploy", "prometheus", "rules", "alerts.yaml"))
	require.NoError(t, err)
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert  string
				Labels struct{ Severity string }
			}
		}
	}
	require.NoError(t, yaml.Unmarshal(raw, &rules))
	want := map[string]string{"critical": "gpu-critical", "warning": "gpu-warning", "info": "gpu-info", "none": "yours"}
	seen := map[string]int{}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			assert.Equal(t, want[r.Labels.Severity], receiver(r.Alert, r.Labels.Severity), r.Alert)
			seen[r.Labels.Severity]++
		}
	}
	require.Len(t, seen, 4)
	assert.Equal(t, "yours", receiver("NodeFilesystemFull", "critical"), "an alert of somebody else")

	address := "127.0.0.1:" + strconv.Itoa(port(t))
	p := start(t, "alertmanager", tool(t, "alertmanager"), nil, "--config.file="+config, "--storage.path="+t.TempDir(), "--web.listen-address="+address, "--cluster.listen-address=")
	require.NoError(t, p.WaitHTTP(withPatience(t), "http://"+address+"/-/ready"))
	post(t, address, gpuAlert("GPUTelemetryMissing", "critical", "node-1", "", "nothing is known"), gpuAlert("NodeFilesystemFull", "critical", "node-1", "", "somebody else's"),
		gpuAlert("GPUXidWarning", "warning", "node-1", "gpu0", "an old one"), gpuAlert("GPUXidWarning", "warning", "node-2", "gpu0", "of another host"))
	// Alertmanager learns of the silent host a moment after it accepted the alert: the answer
	// that shows it must be the same again.
	expected := map[string]bool{"GPUTelemetryMissing node-1": false, "NodeFilesystemFull node-1": false, "GPUXidWarning node-1": true, "GPUXidWarning node-2": false}
	same := 0
	inhibited := map[string]bool{}
	require.Eventually(t, func() bool {
		text, err := get("http://" + address + "/api/v2/alerts")
		var alerts []struct {
			Labels map[string]string
			Status struct{ State string }
		}
		if err != nil || json.Unmarshal([]byte(text), &alerts) != nil {
			return false
		}
		clear(inhibited)
		for _, a := range alerts {
			inhibited[a.Labels["alertname"]+" "+a.Labels["instance"]] = a.Status.State == "suppressed"
		}
		if same++; !maps.Equal(expected, inhibited) {
			same = 0
		}
		return same == 2
	}, patience, 50*time.Millisecond, "%v", inhibited)
}

// lokiStandIn accepts OTLP where Loki does, and names what arrives as Loki does.
type lokiStandIn struct {
	mu      sync.Mutex
	tenants []string
	records []map[string]string
	wrong   []string // other paths
}

func (l *lokiStandIn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		if unzipped, err := gzip.NewReader(r.Body); err == nil {
			body = unzipped
		}
	}
	raw, err := io.ReadAll(body)
	request := plogotlp.NewExportRequest()
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.URL.Path != "/otlp/v1/logs" || err != nil || request.UnmarshalProto(raw) != nil {
		l.wrong = append(l.wrong, r.URL.Path)
		w.WriteHeader(http.StatusNotFound)
		return
	}
	l.tenants = append(l.tenants, r.Header.Get("X-Scope-OrgID"))
	for _, rl := range request.Logs().ResourceLogs().All() {
		for _, sl := range rl.ScopeLogs().All() {
			for _, record := range sl.LogRecords().All() {
				found := map[string]string{"trace_id": record.TraceID().String()}
				for _, attributes := range []pcommon.Map{rl.Resource().Attributes(), record.Attributes()} {
					for k, v := range attributes.All() {
						found[strings.ReplaceAll(k, ".", "_")] = v.AsString()
					}
				}
				l.records = append(l.records, found)
			}
		}
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	_, _ = w.Write(nil)
}

var matcherPattern = regexp.MustCompile(`([a-z_]+)(=~|!=|=)"([^"]*)"`)

// matches is how many records a query matches, of which only the matchers are read.
func (l *lokiStandIn) matches(t *testing.T, query string) (n int) {
	t.Helper()
	matchers := matcherPattern.FindAllStringSubmatch(query, -1)
	require.GreaterOrEqual(t, len(matchers), 2, query)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, record := range l.records {
		all := true
		for _, m := range matchers {
			value := record[m[1]]
			all = all && map[string]bool{"=": value == m[3], "!=": value != m[3], "=~": regexp.MustCompile("^(" + m[3] + ")$").MatchString(value)}[m[2]]
		}
		if all {
			n++
		}
	}
	return n
}

// TestThePageOnExistingServersWorks starts a Prometheus by the page's command and a collector
// with the page's variables and files, and finds metrics, exemplars, traces and logs by what
// the page says.
func TestThePageOnExistingServersWorks(t *testing.T) {
	beside(t, working)
	page := followExisting(t)
	address := "127.0.0.1:" + strconv.Itoa(port(t))
	prom := start(t, "prometheus", tool(t, "prometheus"), nil, append(page.prometheus, "--storage.tsdb.path="+t.TempDir(), "--web.listen-address="+address)...)
	require.NoError(t, prom.WaitHTTP(withPatience(t), "http://"+address+"/-/ready"))
	spans, loki, proxy := startJaeger(t), &lokiStandIn{}, "127.0.0.1:"+strconv.Itoa(port(t))
	h := httptest.NewServer(loki)
	t.Cleanup(h.Close)

	m := newMachine(t, fakenvml.Current, "l40s")
	service := simulation.NewService(m.gpus[0], m.profiles[0], 3)
	server := fakecomfyui.NewServer(service)
	ctx, cancel := context.WithCancel(context.Background())
	var working sync.WaitGroup
	working.Go(func() { server.Run(ctx) })
	web := httptest.NewServer(server)
	t.Cleanup(func() { cancel(); working.Wait(); web.CloseClientConnections(); web.Close() })

	environment := append([]string{"OTELCOL_GPU_COMFYUI_STORE=" + t.TempDir(), "OTELCOL_GPU_COMFYUI=" + web.URL, "OTELCOL_GPU_COMFYUI_PROXY=" + proxy, "OTELCOL_GPU_COLLECTION_INTERVAL=1s"}, m.environment...)
	for variable, name := range map[string]string{"OTELCOL_GPU_REMOTE_WRITE_ENDPOINT": "prometheus:9090", "OTELCOL_GPU_TRACES_ENDPOINT": "tempo:4317", "OTELCOL_GPU_LOGS_ENDPOINT": "loki:3100"} {
		require.NotEmpty(t, page.collectors[variable], variable)
		at := map[string]string{"prometheus:9090": address, "tempo:4317": spans.otlp, "loki:3100": strings.TrimPrefix(h.URL, "http://")}[name]
		environment = append(environment, variable+"="+strings.Replace(page.collectors[variable][0], name, at, 1))
	}
	stores := filepath.Join(page.folder, "etc", "otelcol-gpu", "stores.yaml")
	raw, err := os.ReadFile(stores)
	require.NoError(t, err)
	plain := regexp.MustCompile(`(?m)^ +tls:.*\n`).ReplaceAllString(string(raw), "") // the trace store here has no TLS
	require.NotEqual(t, string(raw), plain)
	require.NoError(t, os.WriteFile(stores, []byte(plain), 0o600))
	c := collect(t, "comfyui.yaml", environment, "--config", filepath.Join(root, "config", "logs.yaml"), "--config", stores)

	require.Eventually(t, func() bool { return m.gpus[0].Calls("nvmlDeviceRegisterEvents") > 0 }, patience, 10*time.Millisecond)
	users := simulation.NewUsers("http://" + proxy)
	require.NoError(t, users.Order(withPatience(t), "client-1", []simulation.Photo{{Side: 512}}))
	free := service.Occupy(4242, 0.999)
	require.NoError(t, users.Order(withPatience(t), "client-2", []simulation.Photo{{Side: 2300}}))
	free()
	m.state.Event(0, fakenvml.EventXID, 31)

	// Metrics, rules and exemplars.
	const hosts = `count by (instance) (hw_gpu_up)`
	require.Contains(t, page.text, "`"+hosts+"`")
	require.Contains(t, page.text, "`up{job=\"otelcol-gpu\"}`")
	rules, err := get("http://" + address + "/api/v1/rules")
	require.NoError(t, err)
	for _, rule := range []string{"GPUMemoryUsageCritical", "comfyui:memory_need_bytes:mean1h", "gpu:price:per_kwh"} {
		assert.Contains(t, rules, rule)
	}
	for path, want := range map[string]string{
		"targets?state=active":                               `"scrapePool":"otelcol-gpu"`,
		"query?query=" + strings.ReplaceAll(hosts, " ", "+"): `"instance":`,
		`query_exemplars?query={__name__=~"comfyui_span.*_bucket"}&start=` + fmt.Sprint(time.Now().Unix()-3600) + `&end=` + fmt.Sprint(time.Now().Unix()+60): `"trace_id":`,
	} {
		require.Eventually(t, func() bool {
			text, err := get("http://" + address + "/api/v1/" + path)
			return err == nil && strings.Contains(text, want)
		}, patience, 200*time.Millisecond, path)
	}

	// Traces: each attribute that a query names is on a span with its name.
	names := regexp.MustCompile(`span\.([a-z._]+)`).FindAllStringSubmatch(page.queries["traceql"], -1)
	require.NotEmpty(t, names)
	for _, name := range names {
		require.Eventually(t, func() bool {
			return spans.hasSpan("comfyui.prompt", func(s *jaegerSpan) bool { return s.tag(name[1]) != nil })
		}, patience, 100*time.Millisecond, name[1])
	}
	var failed jaegerSpan
	require.Eventually(t, func() bool {
		return spans.hasSpan("comfyui.prompt", func(s *jaegerSpan) bool { failed = *s; return s.tag("comfyui.prompt.outcome") == "error" })
	}, patience, 100*time.Millisecond)

	// Logs, under the labels that Loki gives them.
	host, err := os.Hostname()
	require.NoError(t, err)
	for line := range strings.Lines(page.queries["logql"]) {
		line = strings.NewReplacer("0af7651916cd43dd8448eb211c80319c", failed.TraceID, "gpu-node-1", host).Replace(line)
		require.Eventually(t, func() bool { return loki.matches(t, line) > 0 }, patience, 100*time.Millisecond, "%s of %v", line, loki.records)
	}
	_, err = c.Stop(10 * time.Second)
	require.NoError(t, err)
	loki.mu.Lock()
	defer loki.mu.Unlock()
	assert.Empty(t, loki.wrong)
	for _, tenant := range loki.tenants {
		assert.Equal(t, "gpu", tenant)
	}
}
