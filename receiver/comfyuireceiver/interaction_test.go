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
// the expected output.
//
//	play NAME [compress]            a recording of a real ComfyUI, through the proxy
//	serve                           starts a simulated ComfyUI
//	connect SOCKET client=ID        opens a client's WebSocket
//	prompt ID client=ID side=N      sends a prompt; without client, it has no client id
//	wait DURATION
//	leave SOCKET                    closes a client's WebSocket
//	messages SOCKET                 prints which executions a client's messages reported
//	restart [after=DURATION]        replaces the server by a new one, without its queue
//	sockets                         prints the sockets with a client and those without
//	traces                          prints the traces since the last call
func TestInteractions(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join("testdata", "*.txt"))
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	for _, path := range paths {
		for _, compress := range []bool{false, true} {
			name := filepath.Base(path)
			if compress {
				name += "/deflate"
			}
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e := &interaction{t: t, compress: compress, clients: map[string]*testClient{}}
					datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
						e.t = t
						return e.handle(d)
					})
					e.end()
				})
			})
		}
	}
}

// interaction is a receiver between clients and a server, on networks in memory.
type interaction struct {
	*comfyuiReceiver
	t        *testing.T
	compress bool
	sink     *consumertest.TracesSink
	printed  int // traces
	begin    time.Time

	toServer atomic.Pointer[comfyreplay.Pipes]
	client   *http.Client // to the proxy
	stopFake func()
	clients  map[string]*testClient
}

func (e *interaction) dial(ctx context.Context, network, address string) (net.Conn, error) {
	return e.toServer.Load().Dial(ctx, network, address)
}

func (e *interaction) handle(d *datadriven.TestData) string {
	name := ""
	if len(d.CmdArgs) > 0 {
		name = d.CmdArgs[0].Key
	}
	switch d.Cmd {
	case "play":
		return e.play(name)
	case "serve":
		e.serve()
		e.start()
		e.post("/upload/image", "multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"image\"; filename=\"people.png\"\r\n\r\n.\r\n--x--\r\n")
	case "connect":
		e.connect(name, argument(d, "client"))
	case "prompt":
		e.prompt(name, argument(d, "client"), argument(d, "side"))
	case "wait":
		lasts, err := time.ParseDuration(name)
		require.NoError(e.t, err)
		time.Sleep(lasts)
		synctest.Wait()
	case "leave":
		_ = e.clients[name].conn.Close(websocket.StatusNormalClosure, "")
	case "messages":
		return e.clients[name].received()
	case "restart":
		e.stopFake()
		if after := argument(d, "after"); after != "" {
			lasts, err := time.ParseDuration(after)
			require.NoError(e.t, err)
			time.Sleep(lasts)
		}
		e.serve()
	case "sockets":
		withClient, withoutClient := e.hub.Counts()
		return fmt.Sprintf("%d with a client, %d without\n", withClient, withoutClient)
	case "traces":
		return e.printTraces()
	default:
		d.Fatalf(e.t, "unknown command %q", d.Cmd)
	}
	return ""
}

func argument(d *datadriven.TestData, key string) (value string) {
	d.MaybeScanArgs(nil, key, &value)
	return value
}

// start starts the receiver with what its own start would take from the network.
func (e *interaction) start() {
	cfg := createDefaultConfig().(*Config)
	cfg.Device = ""
	settings := receivertest.NewNopSettings(metadata.Type)
	r := newReceiver(settings, cfg)
	e.comfyuiReceiver, e.begin = r, time.Now()
	e.sink = new(consumertest.TracesSink)
	r.traces = e.sink
	var err error
	r.telemetry, err = metadata.NewTelemetryBuilder(settings.TelemetrySettings)
	require.NoError(e.t, err)
	r.store = &store{}
	base, err := url.Parse("http://comfyui:8188")
	require.NoError(e.t, err)
	require.NoError(e.t, r.assemble(base, &http.Client{Transport: &http.Transport{DialContext: e.dial}}))
	r.transport = &http.Transport{DialContext: e.dial, DisableCompression: true}
	running, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	r.server = &http.Server{Handler: r.proxyHandler(running)}
	listener := comfyreplay.NewPipes()
	r.work.Go(func() { _ = r.server.Serve(listener) })
	r.work.Go(func() { r.following.watch(running) })
	r.work.Go(func() { r.following.reconcileLoop(running) })
	r.work.Go(func() { r.sweepLoop(running) })
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
	require.True(e.t, server.Watched())
	require.NoError(e.t, comfyreplay.DriveWith(context.Background(), e.client, r, "http://proxy:8189", 1, e.compress))
	require.NoError(e.t, server.Done())
	time.Sleep(time.Minute)
	require.Zero(e.t, e.following.tracker.OpenCount(), "a prompt has not ended")
	require.Len(e.t, e.sink.AllTraces(), posts(r), "one trace for each prompt")
	return e.printTraces()
}

// serve starts a simulated server.
func (e *interaction) serve() {
	network := comfyreplay.NewPipes()
	e.toServer.Store(network)
	fake := fakecomfyui.NewServer(fakecomfyui.NewTimedWork())
	server := &http.Server{Handler: fake}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = server.Serve(network) })
	running.Go(func() { fake.Run(ctx) })
	e.stopFake = func() {
		cancel()
		_ = server.Close()
		fake.Close()
		running.Wait()
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
	var texts []string
	for _, td := range traces {
		spansOf(e.t, td) // checks what holds for all traces
		texts = append(texts, e.printTrace(td))
	}
	slices.SortStableFunc(traces, func(a, b ptrace.Traces) int { return int(rootOf(a).StartTimestamp()) - int(rootOf(b).StartTimestamp()) })
	slices.Sort(texts)
	if len(texts) == 0 {
		return "none\n"
	}
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
				fmt.Fprintf(&out, " %s", strings.ToUpper(code.String()))
			}
			if m := s.Status().Message(); m != "" {
				fmt.Fprintf(&out, " %q", m)
			}
			fmt.Fprintf(&out, "%s\n", attributes(s.Attributes()))
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
		all = append(all, " "+strings.TrimPrefix(k, "comfyui.")+"="+text)
	}
	slices.Sort(all)
	return strings.Join(all, "")
}
