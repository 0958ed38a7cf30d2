// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakecomfyui"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
	"github.com/otelcol-gpu/otelcol-gpu/lab/stack"
)

var promptKills = flag.Int("prompt-kills", 5, "how often TestKillsLoseNoPrompt kills the collector")

// way is a TCP connection's way to a server, which can be closed, or accept and pass nothing.
type way struct {
	address, target string

	mu       sync.Mutex
	listener net.Listener // nil while connections are refused
	silent   bool
	conns    map[net.Conn]bool
}

func newWay(t *testing.T, target string) *way {
	t.Helper()
	w := &way{address: "127.0.0.1:0", target: target, conns: map[net.Conn]bool{}}
	w.open(t, false)
	t.Cleanup(w.close)
	return w
}

// open accepts connections, again at the same address after close.
func (w *way) open(t *testing.T, silent bool) {
	t.Helper()
	w.close()
	var l net.Listener
	require.Eventually(t, func() (ok bool) {
		var err error
		l, err = net.Listen("tcp", w.address)
		return err == nil
	}, patience, 10*time.Millisecond)
	w.mu.Lock()
	w.address, w.listener, w.silent = l.Addr().String(), l, silent
	w.mu.Unlock()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go w.pass(conn)
		}
	}()
}

func (w *way) pass(conn net.Conn) {
	w.mu.Lock()
	silent := w.silent
	w.conns[conn] = true
	w.mu.Unlock()
	defer conn.Close()
	if silent {
		_, _ = io.Copy(io.Discard, conn)
		return
	}
	to, err := net.Dial("tcp", w.target)
	if err != nil {
		return
	}
	w.mu.Lock()
	w.conns[to] = true
	w.mu.Unlock()
	go func() {
		_, _ = io.Copy(to, conn)
		_ = to.Close()
	}()
	_, _ = io.Copy(conn, to)
	_ = to.Close()
}

// close refuses connections and closes those that are open.
func (w *way) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.listener != nil {
		_ = w.listener.Close()
		w.listener = nil
	}
	for c := range w.conns {
		_ = c.Close()
	}
	clear(w.conns)
}

// promptServer is a simulated ComfyUI that knows which prompts it has executed.
type promptServer struct {
	url string

	mu       sync.Mutex
	executed map[string]bool
}

func newPromptServer(t *testing.T) *promptServer {
	t.Helper()
	s := &promptServer{executed: map[string]bool{}}
	server := fakecomfyui.NewServer(fakecomfyui.NewTimedWork())
	server.Done = func(e fakecomfyui.Executed) {
		if e.Node == "" {
			s.mu.Lock()
			s.executed[e.Prompt] = true
			s.mu.Unlock()
		}
	}
	h := httptest.NewServer(server)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { server.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
		h.CloseClientConnections()
		h.Close()
	})
	s.url = h.URL
	return s
}

// waiting is the length of the queue.
func (s *promptServer) waiting(t *testing.T) int {
	t.Helper()
	text, err := get(s.url + "/prompt")
	require.NoError(t, err)
	var answer struct {
		Exec struct {
			Remaining int `json:"queue_remaining"`
		} `json:"exec_info"`
	}
	require.NoError(t, json.Unmarshal([]byte(text), &answer))
	return answer.Exec.Remaining
}

func (s *promptServer) prompts() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]string, 0, len(s.executed))
	for id := range s.executed {
		all = append(all, id)
	}
	return all
}

// photoPrompt is a prompt for a photo.
func photoPrompt(client string, side int) string {
	return fmt.Sprintf(`{"client_id": %q, "prompt": {
		"1": {"class_type": "LoadImage", "inputs": {"image": "people.png"}},
		"2": {"class_type": "DDColor_Colorize", "inputs": {"image": ["1", 0], "model_input_size": %d, "checkpoint": "ddcolor_paper.pth"}},
		"3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}}}}`, client, side)
}

// promptsOf are the prompts of a Jaeger's traces: for each prompt its roots, and for each
// thing (the queue, the execution, a node) the ids of its spans. One span that arrived twice
// counts once.
func promptsOf(traces []jaegerTrace) map[string]map[string]map[string]bool {
	all := map[string]map[string]map[string]bool{}
	for _, trace := range traces {
		for i := range trace.Spans {
			s := &trace.Spans[i]
			id, _ := s.tag("comfyui.prompt.id").(string)
			if id == "" {
				continue
			}
			thing := s.OperationName
			if node := s.tag("comfyui.node.id"); node != nil {
				thing = fmt.Sprint(thing, " ", node, " ", s.tag("comfyui.node.run"))
			}
			if all[id] == nil {
				all[id] = map[string]map[string]bool{}
			}
			if all[id][thing] == nil {
				all[id][thing] = map[string]bool{}
			}
			all[id][thing][trace.TraceID+" "+s.SpanID] = true
		}
	}
	return all
}

// killsRig is a collector with config/comfyui.yaml between clients and a simulated ComfyUI,
// with a Jaeger that can be away.
type killsRig struct {
	t       *testing.T
	server  *promptServer
	jaeger  *jaeger
	way     *way
	proxy   string
	command command
	*collector
	starts int
}

func newKillsRig(t *testing.T, arguments ...string) *killsRig {
	t.Helper()
	r := &killsRig{t: t, server: newPromptServer(t), jaeger: startJaegerOf(t, 100_000)}
	r.way = newWay(t, r.jaeger.otlp)
	r.proxy = "127.0.0.1:" + strconv.Itoa(port(t))
	m := newMachine(t, fakenvml.Current, "l40s")
	r.collector, r.command = collectorCommand(t, "comfyui.yaml", append(m.environment,
		"OTELCOL_GPU_COMFYUI="+r.server.url, "OTELCOL_GPU_COMFYUI_PROXY="+r.proxy, "OTELCOL_GPU_COMFYUI_STORE="+filepath.Join(t.TempDir(), "comfyui"),
		"OTELCOL_GPU_COMFYUI_DEVICE=0", "OTELCOL_GPU_TRACES_ENDPOINT="+r.way.address, "OTELCOL_GPU_COLLECTION_INTERVAL=1h",
		"OTELCOL_GPU_REMOTE_WRITE_ENDPOINT=http://127.0.0.1:"+strconv.Itoa(port(t))+"/api/v1/write"), arguments...)
	return r
}

func (r *killsRig) start() {
	r.t.Helper()
	r.starts++
	r.Process = start(r.t, fmt.Sprint("otelcol-gpu-", r.starts), binary(), r.command.environment, r.command.arguments...)
	require.NoError(r.t, r.WaitHTTP(withPatience(r.t), r.command.health))
}

// post sends a prompt and reports whether it was accepted.
func (r *killsRig) post(client string, side int) bool {
	response, err := http.Post("http://"+r.proxy+"/prompt", "application/json", strings.NewReader(photoPrompt(client, side)))
	if err != nil {
		return false
	}
	_, _ = io.Copy(io.Discard, response.Body)
	_ = response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// load has clients send prompts until stop is called: two listen on a socket, one polls the
// history, one has no id, and many prompts are alike.
func (r *killsRig) load() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var clients sync.WaitGroup
	for i := range 4 {
		client := []string{"a", "b", "c", ""}[i]
		seed := rand.New(rand.NewPCG(uint64(i), 14))
		if i < 2 {
			clients.Go(func() { r.listen(ctx, client) })
		}
		clients.Go(func() {
			pause := time.NewTimer(0)
			for ctx.Err() == nil {
				<-pause.C
				r.post(client, 60+10*seed.IntN(6))
				if i == 2 {
					_, _ = get("http://" + r.proxy + "/history?max_items=1")
				}
				pause.Reset(time.Duration(60+seed.IntN(80)) * time.Millisecond)
			}
		})
	}
	return func() {
		cancel()
		clients.Wait()
	}
}

// listen keeps a client's socket open, again after each kill.
func (r *killsRig) listen(ctx context.Context, client string) {
	for ctx.Err() == nil {
		conn, response, err := websocket.Dial(ctx, "ws://"+r.proxy+"/ws?clientId="+client, nil)
		if err != nil {
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		if response.Body != nil {
			_ = response.Body.Close()
		}
		conn.SetReadLimit(16 << 20)
		for err == nil {
			_, _, err = conn.Read(ctx)
		}
		_ = conn.CloseNow()
	}
}

// startJaegerOf starts a Jaeger that holds so many traces.
func startJaegerOf(t testing.TB, traces int) *jaeger {
	t.Helper()
	query, grpc, admin := port(t), port(t), port(t)
	arguments, err := stack.JaegerArguments(stack.JaegerPorts{Query: query, OTLP: grpc, Admin: admin})
	require.NoError(t, err)
	arguments = append(arguments, fmt.Sprint("--memory.max-traces=", traces))
	p := start(t, "jaeger", tool(t, "jaeger"), stack.JaegerEnvironment, arguments...)
	require.NoError(t, p.WaitHTTP(withPatience(t), fmt.Sprintf("http://127.0.0.1:%d/", admin)))
	return &jaeger{query: fmt.Sprintf("http://127.0.0.1:%d", query), otlp: "127.0.0.1:" + strconv.Itoa(grpc)}
}

// TestKillsLoseNoPrompt kills the collector again and again while clients send prompts, half
// of the time with the trace store away. Each prompt that ComfyUI accepted has exactly one
// trace afterwards. The GPU and the server are simulated.
func TestKillsLoseNoPrompt(t *testing.T) {
	beside(t, working)
	r := newKillsRig(t)
	seed := rand.New(rand.NewPCG(7, 14))
	r.start()
	response, err := http.Post("http://"+r.proxy+"/upload/image", "multipart/form-data; boundary=x",
		strings.NewReader("--x\r\nContent-Disposition: form-data; name=\"image\"; filename=\"people.png\"\r\n\r\n.\r\n--x--\r\n"))
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	stop := r.load()
	for kill := range *promptKills {
		if kill%2 == 1 {
			r.way.close()
		} else if kill > 0 {
			r.way.open(t, false)
		}
		before := len(r.server.prompts())
		require.Eventually(t, func() bool { return len(r.server.prompts()) >= before+10 }, patience, 10*time.Millisecond)
		<-time.NewTimer(time.Duration(seed.IntN(1500)) * time.Millisecond).C // at any moment
		r.Kill()
		r.start()
	}
	r.way.open(t, false)
	before := len(r.server.prompts())
	require.Eventually(t, func() bool { return len(r.server.prompts()) >= before+10 }, patience, 10*time.Millisecond)
	stop()
	require.Eventually(t, func() bool { return r.server.waiting(t) == 0 }, patience, 50*time.Millisecond)

	accepted := r.server.prompts()
	var found map[string]map[string]map[string]bool
	var all []jaegerTrace
	missing := func() (ids []string) {
		all = r.jaeger.traces("/api/traces?limit=1000000&lookback=24h&service=comfyui")
		found = promptsOf(all)
		for _, id := range accepted {
			if len(found[id]["comfyui.prompt"]) == 0 {
				ids = append(ids, id)
			}
		}
		return ids
	}
	assert.EventuallyWithT(t, func(c *assert.CollectT) { assert.Empty(c, missing()) }, patience, time.Second)
	lasted, err := r.Stop(patience)
	require.NoError(t, err)
	lost, double, lostOutcome, withoutBill := missing(), 0, 0, 0
	for _, things := range found {
		for thing, ids := range things {
			if len(ids) > 1 {
				double++
				t.Logf("%s has %d spans: %v", thing, len(ids), ids)
			}
		}
	}
	for _, trace := range all {
		for i := range trace.Spans {
			s := &trace.Spans[i]
			if s.OperationName == "comfyui.execution" && s.tag("gpu.correlation") == "none" {
				withoutBill++
				assert.NotNil(t, s.tag("gpu.correlation.reason"), "why the samples are missing")
			}
			if s.OperationName == "comfyui.prompt" && s.tag("comfyui.prompt.outcome") == "lost" {
				lostOutcome++
			}
		}
	}
	assert.Empty(t, lost)
	assert.Zero(t, double)
	assert.Zero(t, lostOutcome, "what the server forgot")
	nodes := 0
	for _, things := range found {
		for thing := range things {
			if strings.HasPrefix(thing, "comfyui.node ") {
				nodes++
			}
		}
	}
	assert.Positive(t, nodes, "those that listen have nodes")
	assert.Positive(t, withoutBill, "prompts whose samples died with the process")
	assert.Less(t, lasted, promisedEnd)
	figure.Print("kills.prompts.kills", float64(*promptKills), "kills")
	figure.Print("kills.prompts.accepted", float64(len(accepted)), "prompts")
	figure.Print("kills.prompts.without_bill", float64(withoutBill), "prompts")
	figure.AtMost("kills.prompts.lost", float64(len(lost)), "prompts", 0)
	figure.AtMost("kills.prompts.double", float64(double), "spans", 0)
	figure.AtMost("kills.prompts.outcome_lost", float64(lostOutcome), "prompts", 0)
}
