// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
)

// alertmanager starts Alertmanager with the configuration that is shipped, its addresses those
// of the channels, and returns its address.
func alertmanager(t *testing.T, c *channels, change ...func(string) string) string {
	t.Helper()
	folder := t.TempDir()
	require.NoError(t, os.CopyFS(folder, os.DirFS(filepath.Join(root, "deploy", "alertmanager"))))
	require.NoError(t, os.MkdirAll(filepath.Join(folder, "secrets"), 0o700))
	for name, text := range map[string]string{"smtp_password": smtpPassword, "slack_url": c.slack, "wecom_secret": wecomSecret, "wecom_robot_url": c.robot} {
		require.NoError(t, os.WriteFile(filepath.Join(folder, "secrets", name), []byte(text), 0o600))
	}
	file := filepath.Join(folder, "alertmanager.yml")
	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	text := strings.NewReplacer("mail.example.com:587", c.smtp, "smtp_require_tls: true", "smtp_require_tls: false",
		"https://qyapi.weixin.qq.com/cgi-bin/", c.wecom+"/", "http://127.0.0.1:8890/v1/alerts", c.response,
		"/etc/alertmanager", folder).Replace(string(raw))
	for _, f := range change {
		text = f(text)
	}
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	output, err := exec.Command(tool(t, "amtool"), "check-config", file).CombinedOutput()
	require.NoError(t, err, string(output))
	address := "127.0.0.1:" + strconv.Itoa(port(t))
	p := start(t, "alertmanager", tool(t, "alertmanager"), nil, "--config.file="+file, "--storage.path="+t.TempDir(), "--web.listen-address="+address,
		"--cluster.listen-address=", "--web.external-url=http://alerts.example.com")
	require.NoError(t, p.WaitHTTP(withPatience(t), "http://"+address+"/-/ready"))
	return address
}

type alert struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	EndsAt      *time.Time        `json:"endsAt,omitempty"`
}

func gpuAlert(name, severity, host, gpu, summary string) alert {
	labels := map[string]string{"alertname": name, "severity": severity, "instance": host}
	if gpu != "" {
		labels["hw_id"], labels["hw_name"] = "GPU-"+gpu, gpu
	}
	return alert{Labels: labels, Annotations: map[string]string{
		"summary": summary, "action": "Look at the queue: see which prompt holds the memory.", "runbook_url": "https://example.com/" + name,
	}}
}

func post(t *testing.T, address string, alerts ...alert) {
	t.Helper()
	body, err := json.Marshal(alerts)
	require.NoError(t, err)
	response, err := http.Post("http://"+address+"/api/v2/alerts", "application/json", bytes.NewReader(body)) //nolint:noctx // a test
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusOK, response.StatusCode)
}

func resolved(a alert) alert {
	now := time.Now()
	a.EndsAt = &now
	return a
}

var allChannels = []string{"email", "slack", "wecom_app", "wecom_robot"}

// arrives waits until a channel has a text with another.
func (c *channels) arrives(t *testing.T, channel, part string) string {
	t.Helper()
	require.Eventually(t, func() bool { return len(c.with(channel, part)) > 0 }, 2*patience, 20*time.Millisecond, "%s has no %q", channel, part)
	return c.with(channel, part)[0]
}

// TestAlertsReachEveryChannel sends alerts to Alertmanager as it is shipped, with texts that are
// no markup, and waits for them where people read them.
func TestAlertsReachEveryChannel(t *testing.T) {
	besideFirst(t, waiting)
	c := newChannels(t)
	address := alertmanager(t, c)
	hostile := []string{
		"告警: 95 % of the memory is used", "# not a heading", `"quoted" 'text' \ and <b>tags</b> & more`, "one line\nand another: yes", "42", "{{ .Nothing }}", "<!channel> &amp; <https://example.com|all is well>", "- [x] list: {a: b}",
	}
	begin := time.Now()
	for i, summary := range hostile {
		post(t, address, gpuAlert("GPUMemoryUsageCritical", "critical", "node-1", fmt.Sprint("gpu", i), summary))
	}
	post(t, address, gpuAlert("Watchdog", "none", "node-1", "", "nobody reads this"), gpuAlert("GPUXidWarning", "warning", "node-2", "gpu9", "a warning"))
	for _, channel := range allChannels {
		for i, summary := range hostile {
			text := c.arrives(t, channel, fmt.Sprint("gpu", i))
			if i == 0 {
				figure.Print("alertmanager."+channel+".delivery", time.Since(begin).Seconds(), "s")
			}
			if strings.HasPrefix(channel, "wecom") {
				summary = strings.ReplaceAll(summary, "\n", " ")
			}
			assert.Contains(t, text, summary, channel)
			assert.Contains(t, text, "Look at the queue: see which prompt holds the memory.", channel)
			assert.Contains(t, text, "https://example.com/GPUMemoryUsageCritical", channel)
			assert.Contains(t, text, "node-1", channel)
		}
	}
	for _, channel := range append(slices.Clone(allChannels), "email.html") {
		isMessage(t, channel+".firing", c.arrives(t, channel, "gpu0"))
	}
	assert.Contains(t, c.arrives(t, "email.html", "gpu2"), `&lt;b&gt;tags&lt;/b&gt;`, "a text is no HTML")
	c.arrives(t, "slack", "a warning")
	c.arrives(t, "email", "a warning")

	post(t, address, resolved(gpuAlert("GPUMemoryUsageCritical", "critical", "node-1", "gpu0", hostile[0])))
	assert.Contains(t, c.arrives(t, "email", "[RESOLVED] GPUMemoryUsageCritical on node-1, gpu0"), "RESOLVED")
	c.arrives(t, "slack", "[RESOLVED] GPUMemoryUsageCritical on node-1, gpu0")
	isMessage(t, "email.resolved", c.arrives(t, "email", "[RESOLVED] GPUMemoryUsageCritical on node-1, gpu0"))
	isMessage(t, "slack.resolved", c.arrives(t, "slack", "[RESOLVED] GPUMemoryUsageCritical on node-1, gpu0"))
	isMessage(t, "wecom_app.resolved", c.arrives(t, "wecom_app", "已恢复"))
	isMessage(t, "wecom_robot.resolved", c.arrives(t, "wecom_robot", "已恢复"))
	for _, channel := range append(allChannels, "email.html") {
		assert.Empty(t, c.with(channel, "nobody reads this"), "Watchdog goes to no person")
	}
	assert.Empty(t, c.with("wecom_robot", "a warning"), "warnings do not ring")
	assert.Empty(t, c.with("wecom_app", "a warning"))
	c.mu.Lock()
	defer c.mu.Unlock()
	assert.Empty(t, c.refused)
	assert.Empty(t, c.got["response"], "the response is off")
}

var (
	rewriteMessages = flag.Bool("rewrite-messages", false, "write testdata/messages again")
	messageTime     = regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)?( UTC)?`)
	messageAddress  = regexp.MustCompile(`http://[\w.-]+:\d+`)
)

// isMessage compares the whole text of a message with a file, but for times and addresses.
func isMessage(t *testing.T, name, text string) {
	t.Helper()
	text = messageAddress.ReplaceAllString(messageTime.ReplaceAllString(text, "TIME"), "http://ADDRESS")
	file := filepath.Join("testdata", "messages", name+".txt")
	if *rewriteMessages {
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, string(want), text, name)
}

// TestManyAlertsOfAGroupAreCutWithANote: 200 alerts of one GPU, each with a long text.
func TestManyAlertsOfAGroupAreCutWithANote(t *testing.T) {
	beside(t, waiting)
	c := newChannels(t)
	address := alertmanager(t, c)
	long := strings.Repeat("显存 memory # : \" ", 30)
	var all []alert
	for i := range 200 {
		a := gpuAlert("GPUXidCritical", "critical", "node-1", "gpu0", long)
		a.Labels["hw_gpu_xid"] = strconv.Itoa(i)
		all = append(all, a)
	}
	post(t, address, all...)
	assert.Contains(t, c.arrives(t, "email", "GPUXidCritical"), "These are the first 10 of 200 alerts.")
	assert.Contains(t, c.arrives(t, "slack", "GPUXidCritical"), "These are the first 10 of 200 alerts.")
	app, robot := c.arrives(t, "wecom_app", "GPU严重XID错误"), c.arrives(t, "wecom_robot", "GPUXidCritical")
	for _, text := range []string{app, robot} {
		assert.Contains(t, text, "已截断")
	}
	assert.Contains(t, app, "共200条告警，仅列出前10条")
	assert.Contains(t, robot, "共50条告警，仅列出前10条", "max_alerts bounds what the robot gets")
	c.mu.Lock()
	defer c.mu.Unlock()
	assert.Empty(t, c.refused)
}

// inhibited are the alerts of which one says what the other does.
var inhibited = []struct{ source, target string }{
	{"GPUMemoryUsageCritical", "GPUMemoryHeadroomShort"},
	{"GPUXidCritical", "GPUXidWarning"},
	{"GPURowRemapFailure", "GPURowRemapPending"}, {"GPURowRemapFailure", "GPUPagesRetired"}, {"GPURecoveryActionNeeded", "GPUPredictedFailure"},
	{"ComfyUIDown", "ComfyUIQueueGrowing"}, {"ComfyUIDown", "ComfyUIStalled"}, {"ComfyUIDown", "ComfyUIErrorRate"}, {"ComfyUIDown", "ComfyUILatencySLO"}, {"ComfyUIDown", "ComfyUIModelLoadingHeavy"},
	{"ComfyUILatencySLO", "ComfyUILatencySLO"},
}

// TestALostGPUIsOneMessage: what an alert says makes others needless.
func TestALostGPUIsOneMessage(t *testing.T) {
	beside(t, waiting)
	c := newChannels(t)
	address := alertmanager(t, c, func(s string) string { return strings.ReplaceAll(s, "#response ", "") })
	post(t, address,
		gpuAlert("GPULost", "critical", "node-1", "gpu0", "is lost"), gpuAlert("GPUMemoryUsageHigh", "warning", "node-1", "gpu0", "of the lost one"),
		gpuAlert("GPUMemoryUsageCritical", "critical", "node-1", "gpu1", "nearly full"), gpuAlert("GPUMemoryUsageHigh", "warning", "node-1", "gpu1", "rather full"),
		gpuAlert("GPUTelemetryMissing", "critical", "node-2", "", "is missing"), gpuAlert("GPUXidCritical", "critical", "node-2", "gpu0", "of the missing host"),
		gpuAlert("DiskFull", "critical", "node-2", "", "of another team"),
		gpuAlert("GPUMemoryUsageHigh", "warning", "node-3", "gpu0", "on its own"))
	for _, part := range []string{"is lost", "nearly full", "is missing", "on its own", "of another team"} {
		c.arrives(t, "email", part)
	}
	for i, pair := range inhibited {
		node := fmt.Sprint("pair-", i)
		post(t, address, gpuAlert(pair.source, "critical", node, "gpu0", "the cause of "+node), gpuAlert(pair.target, "warning", node, "gpu0", "the consequence of "+node))
	}
	for i := range inhibited {
		c.arrives(t, "email", fmt.Sprintf("the cause of pair-%d\n", i))
	}
	post(t, address, gpuAlert("GPUPowerBrake", "warning", "node-4", "gpu0", "after all others")) // whose group waits as long as theirs did
	c.arrives(t, "email", "after all others")
	for _, part := range []string{"of the lost one", "rather full", "of the missing host", "the consequence of"} {
		assert.Empty(t, c.with("email", part))
	}
	c.arrives(t, "response", "is lost")
	c.mu.Lock()
	defer c.mu.Unlock()
	assert.Empty(t, c.refused)
}

// TestEveryAlertHasAChineseName compares the template with the rules.
func TestEveryAlertHasAChineseName(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(root, "deploy", "prometheus", "rules", "alerts.yaml"))
	require.NoError(t, err)
	template, err := os.ReadFile(filepath.Join(root, "deploy", "alertmanager", "templates", "otelcol-gpu.tmpl"))
	require.NoError(t, err)
	alerts := regexp.MustCompile(`(?m)^\s*-? *alert: (\w+)`).FindAllSubmatch(raw, -1)
	assert.Greater(t, len(alerts), 30)
	for _, a := range alerts {
		assert.Regexp(t, `"`+string(a[1])+`" "[^"]*\p{Han}`, string(template))
	}
}
