// SPDX-License-Identifier: Apache-2.0

package gpuadvisorconnector

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/bearertokenauthextension"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/config/configauth"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/extension/extensiontest"
	"go.uber.org/goleak"
)

// slowClient is a client of POST /v1/advice that sends what it begins with, and then bytes, one at a time
// or as many as the server reads, until the server closes the connection.
type slowClient struct {
	begin string
	// next is what it sends again and again, pause the time between two.
	next  string
	pause time.Duration
}

const post = "POST /v1/advice HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"

// limit is the server's, slowest when a client has been ended at the latest: a machine may be busy.
const (
	limit   = 3 * time.Second
	slowest = limit + 10*time.Second
)

// pause is that between two bytes: a second for a client of the field, shorter here as the limit is.
const pause = 100 * time.Millisecond

var slowClients = map[string]slowClient{
	"body":           {post + "Content-Length: 100000\r\n\r\n{\"requests\": [", " ", pause},
	"chunks":         {post + "Transfer-Encoding: chunked\r\n\r\n", "1\r\n \r\n", pause},
	"claim":          {strings.Replace(post, "advice", "advice/claims/7", 1) + "Content-Length: 1000\r\n\r\n", " ", pause},
	"header":         {post + "X-Slow: ", "x", pause},
	"request line":   {"POST /v1/adv", "x", pause},
	"body of a GET":  {"GET /v1/state HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n", " ", pause},
	"endless header": {post + "X-Long: ", strings.Repeat("x", 64<<10), 0},
	"endless chunks": {post + "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", "1000\r\n" + strings.Repeat(" ", 0x1000) + "\r\n", 0},
	"10 MiB":         {post + "Content-Length: 10485760\r\n\r\n{", strings.Repeat(" ", 64<<10), 0},
}

// run connects, and returns after what time the server had closed the connection, and its answer, which a
// client that still sends may lose.
func (c slowClient) run(t *testing.T, address string) (lasted time.Duration, answer string) {
	conn, err := net.Dial("tcp", address)
	if !assert.NoError(t, err) {
		return 0, ""
	}
	begun := time.Now()
	_ = conn.SetDeadline(begun.Add(2 * slowest))
	var reading sync.WaitGroup
	reading.Go(func() {
		raw, _ := io.ReadAll(conn)
		answer = string(raw)
		lasted = time.Since(begun)
		_ = conn.Close() // so that writing ends
	})
	_, err = io.WriteString(conn, c.begin)
	ticker := time.NewTicker(max(c.pause, time.Nanosecond))
	defer ticker.Stop()
	for err == nil {
		if c.pause > 0 {
			<-ticker.C
		}
		_, err = io.WriteString(conn, c.next)
	}
	reading.Wait()
	return lasted, answer
}

// TestSlowAndOversizedRequestsEndAndDelayNobody has 102 clients at once that are slow and nine
// that send as fast as they can. The server ends each within its limit and a margin for a busy machine, and
// answers others meanwhile.
func TestSlowAndOversizedRequestsEndAndDelayNobody(t *testing.T) {
	const slow, fast = 17, 3
	r := newRig(t, func(c *Config) {
		c.Page.ReadTimeout, c.Page.ReadHeaderTimeout = limit, limit
		c.Advice.Claims = true
	})
	r.shown()
	http.DefaultClient.CloseIdleConnections()
	before := goleak.IgnoreCurrent()
	var all sync.WaitGroup
	var open atomic.Int64
	answers := make(chan string, slow*len(slowClients))
	for name, c := range slowClients {
		each := slow
		if c.pause == 0 {
			each = fast
		}
		for range each {
			open.Add(1)
			all.Go(func() {
				defer open.Add(-1)
				lasted, answer := c.run(t, r.address)
				assert.Less(t, lasted, slowest, name)
				if line, _, ok := strings.Cut(answer, "\r\n"); ok {
					answers <- name + ": " + line
				}
			})
		}
	}
	var took []time.Duration
	for open.Load() > 0 {
		begun := time.Now()
		response, err := http.Post("http://"+r.address+"/v1/advice", "application/json", strings.NewReader(`{"requests": [{"width": 512}]}`))
		require.NoError(t, err)
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, http.StatusOK, response.StatusCode, string(body))
		took = append(took, time.Since(begun))
	}
	all.Wait()
	close(answers)
	got := map[string]bool{}
	for answer := range answers {
		got[answer] = true
	}
	for _, name := range []string{"body", "chunks", "claim"} {
		assert.True(t, got[name+": HTTP/1.1 408 Request Timeout"], "%s: %v", name, got)
	}
	slices.Sort(took)
	t.Logf("%d others were answered meanwhile, half of them within %v, all within %v", len(took), took[len(took)/2], took[len(took)-1])
	assert.Greater(t, len(took), 10)
	assert.Less(t, took[len(took)/2], 250*time.Millisecond)
	http.DefaultClient.CloseIdleConnections()
	assert.NoError(t, goleak.Find(before), "goroutines of the server stay")
}

// TestASlowBodyWithoutATokenEnds: the server refuses the request before anybody reads the body, which it
// reads itself then.
func TestASlowBodyWithoutATokenEnds(t *testing.T) {
	factory := bearertokenauthextension.NewFactory()
	settings := factory.CreateDefaultConfig().(*bearertokenauthextension.Config)
	settings.BearerToken = "secret"
	id := component.MustNewID("bearertokenauth")
	extension, err := factory.Create(t.Context(), extensiontest.NewNopSettings(factory.Type()), settings)
	require.NoError(t, err)
	host := storing{componenttest.NewNopHost(), map[component.ID]component.Component{id: extension}}
	require.NoError(t, extension.Start(t.Context(), host))
	defer func() { require.NoError(t, extension.Shutdown(t.Context())) }()
	r := newStoppedRig(t, nil, func(c *Config) {
		c.Page.ReadTimeout = limit
		c.Page.Auth = configoptional.Some(confighttp.AuthConfig{Config: configauth.Config{AuthenticatorID: id}})
		c.Advice.Claims = true
	})
	r.start(host)
	lasted, answer := slowClients["body"].run(t, r.address)
	assert.Less(t, lasted, slowest)
	if answer != "" {
		assert.Contains(t, answer, fmt.Sprint("HTTP/1.1 ", http.StatusUnauthorized))
	}
}

func TestRequestsHaveATimeLimitByDefault(t *testing.T) {
	page := createDefaultConfig().(*Config).Page
	assert.Equal(t, 10*time.Second, page.ReadTimeout)
	assert.Equal(t, 10*time.Second, page.ReadHeaderTimeout)
}
