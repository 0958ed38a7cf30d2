// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/comfyreplay"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakecomfyui"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/metadata"
)

// TestInteractions runs the scripts of testdata/*.txt: what clients and a server do, and
// the traces that follow. All of it happens in memory and in virtual time, so that each
// span has the same duration in each run. `go test -run TestInteractions -rewrite` writes
// the expected output. Each script runs twice, without and with permessage-deflate.
//
// `play NAME` plays a recording of a real ComfyUI through the proxy, and prints the traces.
// `run` runs these commands with a simulated one, and prints what they print; `run own` does
// so with own_sockets: true:
//
//	connect SOCKET CLIENT      opens a client's WebSocket
//	prompt ID CLIENT SIDE      sends a prompt; CLIENT - has no client id
//	wait DURATION
//	leave SOCKET               closes a client's WebSocket
//	messages SOCKET            prints the executions of which messages arrived
//	restart DURATION           replaces the server by a new one, which has no queue, after
//	                           a time without a server
//	sockets                    prints the sockets with a client and those without
//	traces                     prints the traces since the last call
func TestInteractions(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join("testdata", "*.txt"))
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	for _, path := range paths {
		for _, compress := range []bool{false, true} {
			name := strings.TrimSuffix(filepath.Base(path), ".txt")
			if compress {
				name += "_deflate"
			}
			t.Run(name, func(t *testing.T) {
				datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) (output string) {
					synctest.Test(t, func(t *testing.T) {
						e := &interaction{t: t, compress: compress, clients: map[string]*testClient{}}
						defer e.end()
						switch d.Cmd {
						case "play":
							output = e.play(d.CmdArgs[0].Key)
						case "run":
							e.ownSockets = d.HasArg("own")
							output = e.run(d.Input)
						default:
							d.Fatalf(t, "unknown directive %q", d.Cmd)
						}
					})
					return output
				})
			})
		}
	}
}

// interaction is a receiver between clients and a server, on networks in memory.
type interaction struct {
	*comfyuiReceiver
	t          *testing.T
	compress   bool
	ownSockets bool
	change     func(*Config)       // of the configuration
	see        func(*http.Request) // each request to the simulated server
	// between is put between the proxy and the server of a recording.
	between func(http.RoundTripper) http.RoundTripper
	sink    *consumertest.TracesSink
	printed int // traces
	begin   time.Time

	toServer atomic.Pointer[comfyreplay.Pipes]
	client   *http.Client // to the proxy
	stopFake func()
	clients  map[string]*testClient
}

func (e *interaction) dial(ctx context.Context, network, address string) (net.Conn, error) {
	return e.toServer.Load().Dial(ctx, network, address)
}

// run runs a script and returns its commands with their output.
func (e *interaction) run(script string) string {
	e.serve()
	e.start()
	e.post("/upload/image", "multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"image\"; filename=\"people.png\"\r\n\r\n.\r\n--x--\r\n")
	var out strings.Builder
	for line := range strings.Lines(script) {
		f := strings.Fields(line)
		fmt.Fprintf(&out, "> %s\n", strings.Join(f, " "))
		out.WriteString(e.command(f[0], append(f[1:], "", "", "")))
	}
	return out.String()
}

func (e *interaction) command(name string, args []string) string {
	switch name {
	case "connect":
		e.connect(args[0], args[1])
	case "prompt":
		e.prompt(args[0], strings.TrimPrefix(args[1], "-"), args[2])
	case "wait":
		e.wait(args[0])
	case "leave":
		_ = e.clients[args[0]].conn.Close(websocket.StatusNormalClosure, "")
		synctest.Wait()
	case "messages":
		return e.clients[args[0]].received()
	case "restart":
		e.stopFake()
		e.wait(args[0])
		e.serve()
	case "sockets":
		withClient, withoutClient := e.hub.Counts()
		return fmt.Sprintf("%d with a client, %d without\n", withClient, withoutClient)
	case "traces":
		return e.printTraces()
	default:
		e.t.Fatalf("unknown command %q", name)
	}
	return ""
}

func (e *interaction) wait(text string) {
	lasts, err := time.ParseDuration(text)
	require.NoError(e.t, err)
	time.Sleep(lasts)
	synctest.Wait()
}

// start starts the receiver with what its own start would take from the network.
func (e *interaction) start() {
	cfg := createDefaultConfig().(*Config)
	cfg.Device = ""
	if e.ownSockets {
		cfg.OwnSockets = ownAlways
	}
	if e.change != nil {
		e.change(cfg)
	}
	settings := receivertest.NewNopSettings(metadata.Type)
	r := newReceiver(settings, cfg)
	e.comfyuiReceiver, e.begin = r, time.Now()
	e.sink = new(consumertest.TracesSink)
	r.traces = e.sink
	var err error
	r.telemetry, err = metadata.NewTelemetryBuilder(settings.TelemetrySettings)
	require.NoError(e.t, err)
	base, err := url.Parse("http://comfyui:8188")
	require.NoError(e.t, err)
	require.NoError(e.t, r.assemble(base, &http.Client{Transport: &http.Transport{DialContext: e.dial}}, nil))
	r.transport = &http.Transport{DialContext: e.dial, DisableCompression: true}
	running, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	r.server = &http.Server{Handler: r.proxyHandler(running)}
	listener := comfyreplay.NewPipes()
	r.work.Go(func() { _ = r.server.Serve(listener) })
	r.work.Go(func() { r.following.watch(running, r.hub) })
	r.work.Go(func() { r.following.reconcileLoop(running) })
	r.work.Go(func() { every(running, sweepInterval, r.sweep) })
	e.client = &http.Client{Transport: &http.Transport{DialContext: listener.Dial, DisableCompression: true}}
	synctest.Wait()
}

func (e *interaction) end() {
	for _, c := range e.clients {
		_ = c.conn.CloseNow()
	}
	if e.comfyuiReceiver != nil {
		e.client.CloseIdleConnections()
		require.NoError(e.t, e.stop(context.Background()))
	}
	if e.stopFake != nil {
		e.stopFake()
	}
	synctest.Wait()
}

// play plays a recording at its own speed.
func (e *interaction) play(name string) string {
	all := comfyreplay.All(e.t)
	i := slices.IndexFunc(all, func(r comfyreplay.Recording) bool { return r.Name == name })
	require.GreaterOrEqual(e.t, i, 0, name)
	r := &all[i]
	time.Sleep(time.Until(r.Begin())) // the server's times are those of the recording
	network := comfyreplay.NewPipes()
	e.toServer.Store(network)
	server := comfyreplay.ServeOn(e.t, network, r, 1, e.compress)
	e.start()
	if e.between != nil {
		e.proxy.relay.Transport = e.between(e.proxy.relay.Transport)
	}
	require.True(e.t, server.Watched())
	require.NoError(e.t, comfyreplay.DriveWith(context.Background(), e.client, r, "http://proxy:8189", 1, e.compress))
	require.NoError(e.t, server.Done())
	time.Sleep(time.Minute)
	require.Zero(e.t, e.following.tracker.OpenCount(), "a prompt has not ended")
	require.Len(e.t, e.sink.AllTraces(), posts(r), "one trace for each prompt")
	text := e.printTraces()
	require.Len(e.t, comfyreplay.ParseSpans(text), e.sink.SpanCount(), "the end-to-end tests read these files")
	return text
}

// serve starts a simulated server.
func (e *interaction) serve() {
	network := comfyreplay.NewPipes()
	e.toServer.Store(network)
	hijacked := &connections{Listener: network} // http.Server.Close leaves WebSockets open
	fake := fakecomfyui.NewServer(fakecomfyui.NewTimedWork())
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if e.see != nil {
			e.see(r)
		}
		fake.ServeHTTP(w, r)
	})}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = server.Serve(hijacked) })
	running.Go(func() { fake.Run(ctx) })
	e.stopFake = func() {
		cancel()
		_ = server.Close()
		hijacked.closeAll()
		running.Wait()
	}
}

// connections remembers the connections of a listener.
type connections struct {
	net.Listener
	mu  sync.Mutex
	all []net.Conn
}

func (c *connections) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, conn)
	return conn, err
}

func (c *connections) closeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.all {
		if conn != nil {
			_ = conn.Close()
		}
	}
}

func (e *interaction) post(path, contentType, body string) {
	response, err := e.client.Post("http://proxy:8189"+path, contentType, strings.NewReader(body))
	require.NoError(e.t, err)
	answer, err := io.ReadAll(response.Body)
	require.NoError(e.t, err)
	require.NoError(e.t, response.Body.Close())
	require.Equal(e.t, http.StatusOK, response.StatusCode, string(answer))
	synctest.Wait()
}

func (e *interaction) prompt(id, client, side string) {
	e.post("/prompt", "application/json", fmt.Sprintf(`{"prompt_id": %q, "client_id": %q, "prompt": {
		"1": {"class_type": "LoadImage", "inputs": {"image": "people.png"}},
		"2": {"class_type": "DDColor_Colorize", "inputs": {"image": ["1", 0], "model_input_size": %s, "checkpoint": "ddcolor_paper.pth"}},
		"3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}}}}`, id, client, side))
}

// testClient is a client's WebSocket.
type testClient struct {
	conn *websocket.Conn
	mu   sync.Mutex
	got  []string // executions that started or ended
}

func (e *interaction) connect(name, id string) {
	mode := websocket.CompressionDisabled
	if e.compress {
		mode = websocket.CompressionContextTakeover
	}
	conn, response, err := websocket.Dial(context.Background(), "ws://proxy:8189/ws?clientId="+id, &websocket.DialOptions{HTTPClient: e.client, CompressionMode: mode})
	require.NoError(e.t, err)
	if response.Body != nil {
		_ = response.Body.Close()
	}
	conn.SetReadLimit(16 << 20)
	c := &testClient{conn: conn}
	e.clients[name] = c
	go func() {
		for {
			_, text, err := conn.Read(context.Background())
			if err != nil {
				return
			}
			var m struct {
				Type string
				Data struct {
					ID string `json:"prompt_id"`
				}
			}
			if json.Unmarshal(text, &m) == nil && (m.Type == "execution_start" || m.Type == "execution_success") {
				c.mu.Lock()
				c.got = append(c.got, m.Type+" "+m.Data.ID)
				c.mu.Unlock()
			}
		}
	}()
	synctest.Wait()
}

func (c *testClient) received() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.got) == 0 {
		return "none\n"
	}
	return strings.Join(c.got, "\n") + "\n"
}

// printTraces prints the traces that were exported since the last call, by the times of
// their requests.
func (e *interaction) printTraces() string {
	synctest.Wait()
	traces := slices.Clone(e.sink.AllTraces()[e.printed:])
	e.printed += len(traces)
	if len(traces) == 0 {
		return "none\n"
	}
	texts := make([]string, 0, len(traces))
	for _, td := range traces {
		spansOf(e.t, td) // checks what holds for all traces
		texts = append(texts, e.printTrace(td))
	}
	slices.Sort(texts) // by time; traces that end at the same time come in any order
	return strings.Join(texts, "")
}

func rootOf(td ptrace.Traces) ptrace.Span {
	return td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0)
}

// printTrace prints the spans of a trace, each with its start, its duration and its
// attributes, indented below its parent.
func (e *interaction) printTrace(td ptrace.Traces) string {
	var out bytes.Buffer
	all := td.ResourceSpans().At(0).ScopeSpans().At(0).Spans()
	var print func(parent pcommon.SpanID, depth string)
	print = func(parent pcommon.SpanID, depth string) {
		for i, s := range all.All() {
			if s.ParentSpanID() != parent && (i > 0 || depth != "") || i == 0 && depth != "" {
				continue
			}
			from := s.StartTimestamp().AsTime().Sub(e.begin).Round(time.Millisecond)
			lasts := s.EndTimestamp().AsTime().Sub(s.StartTimestamp().AsTime()).Round(time.Millisecond)
			fmt.Fprintf(&out, "%8dms +%dms %s%s", from.Milliseconds(), lasts.Milliseconds(), depth, label(s))
			if code := s.Status().Code(); code != ptrace.StatusCodeUnset {
				fmt.Fprintf(&out, " [%s]", strings.TrimSuffix(fmt.Sprintf("%s %q", code, s.Status().Message()), ` ""`))
			}
			fmt.Fprintf(&out, " |%s\n", attributes(s.Attributes()))
			for _, event := range s.Events().All() {
				fmt.Fprintf(&out, "%s! %s%s\n", strings.Repeat(" ", 20)+depth, event.Name(), attributes(event.Attributes()))
			}
			print(s.SpanID(), depth+"  ")
		}
	}
	print(rootOf(td).ParentSpanID(), "")
	return out.String()
}

func attributes(m pcommon.Map) string {
	var all []string
	for k, v := range m.All() {
		text := v.AsString()
		if v.Type() == pcommon.ValueTypeStr && strings.ContainsAny(text, " \n\"") {
			text = fmt.Sprintf("%q", text)
		}
		all = append(all, " "+k+"="+text)
	}
	slices.Sort(all)
	return strings.Join(all, "")
}

// posts counts the prompts that a recording's clients sent, accepted or not.
func posts(r *comfyreplay.Recording) (n int) {
	for i := range r.Lines {
		if l := &r.Lines[i]; l.Kind == "request" && l.Method == http.MethodPost && (l.Path == "/prompt" || l.Path == "/api/prompt") {
			n++
		}
	}
	return n
}
