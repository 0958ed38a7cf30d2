// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"bufio"
	"flag"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
)

var figures = flag.Bool("figures", false, "measure and print figures")

// TestProxyFigures prints what the proxy costs, beside a direct connection in the
// same run. It checks nothing: a missed goal is a figure, not a failure.
func TestProxyFigures(t *testing.T) {
	if !*figures {
		t.Skip("asked for with -figures (make bench-proxy)")
	}
	s := newRawServer(t)
	s.posts = func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"exec_info": {"queue_remaining": 0}}`)
	}
	direct := newRawServer(t)
	direct.Config.Handler = s.posts
	r := newRig(t, s.URL, nil)
	latency(t, direct.URL, r.base)
	throughput(t, r, s)
	textFrames(t, r, s)
	openSockets(t, r, s)
}

// latency asks directly, through the proxy, and through the smallest possible one, in
// turn: what the third adds is the machine's price of one more hop.
func latency(t *testing.T, direct, proxied string) {
	const rounds = 4000
	upstream, err := url.Parse(direct)
	require.NoError(t, err)
	plain := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(upstream) },
		Transport: &http.Transport{MaxIdleConnsPerHost: 4},
	})
	defer plain.Close()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4}}
	ask := func(base string) float64 {
		begin := time.Now()
		response, err := client.Get(base + "/prompt")
		require.NoError(t, err)
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		return float64(time.Since(begin).Microseconds()) / 1000
	}
	bases := [...]string{direct, proxied, plain.URL}
	var took [len(bases)][]float64
	for i := range rounds {
		for k, base := range bases {
			if ms := ask(base); i >= rounds/10 { // warm
				took[k] = append(took[k], ms)
			}
		}
	}
	added := func(k int, share float64) float64 {
		at := func(v []float64) float64 {
			slices.Sort(v)
			return v[int(float64(len(v)-1)*share)]
		}
		return at(took[k]) - at(took[0])
	}
	figure.Print("proxy.latency_added_p50", added(1, 0.5), "ms")
	figure.AtMost("proxy.latency_added_p99", added(1, 0.99), "ms", 1)
	figure.Print("proxy.plain_hop_added_p50", added(2, 0.5), "ms")
	figure.Print("proxy.plain_hop_added_p99", added(2, 0.99), "ms")
}

// throughput sends previews of a megabyte through the proxy, and the same bytes
// through a plain copy between two connections.
func throughput(t *testing.T, r *rig, s *rawServer) {
	const frames = 2000
	preview := append([]byte{0x82, 127, 0, 0, 0, 0, 0, 0x10, 0, 0}, make([]byte, 1<<20)...)
	measure := func(from io.Reader, to net.Conn) float64 {
		begin := time.Now()
		go func() {
			for range frames {
				if _, err := to.Write(preview); err != nil {
					return
				}
			}
		}()
		_, err := io.CopyN(io.Discard, from, int64(frames*len(preview)))
		require.NoError(t, err)
		return float64(frames*len(preview)) / time.Since(begin).Seconds() / 1e9
	}
	var through, plain []float64
	for range 3 {
		_, from := rawClient(t, r, "clientId=x")
		through = append(through, measure(from, <-s.conns))
		a, b := pipe(t)
		plain = append(plain, measure(bufio.NewReaderSize(a, 4096), b))
	}
	slices.Sort(through)
	slices.Sort(plain)
	figure.Print("proxy.previews", through[1], "GB/s")
	figure.Print("proxy.plain_copy", plain[1], "GB/s")
	figure.AtLeast("proxy.previews_to_plain_copy", through[1]/plain[1], "x", 0.8)
}

// pipe is a connection through a plain copy, as the smallest possible proxy.
func pipe(t *testing.T) (client, server net.Conn) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	dial := func() (near, far net.Conn) {
		near, err := net.Dial("tcp", listener.Addr().String())
		require.NoError(t, err)
		far, err = listener.Accept()
		require.NoError(t, err)
		t.Cleanup(func() { _, _ = near.Close(), far.Close() })
		return near, far
	}
	client, inner := dial()
	server, outer := dial()
	go func() {
		// Not *net.TCPConn, whose copy the kernel does by itself.
		_, _ = io.CopyBuffer(struct{ io.Writer }{inner}, struct{ io.Reader }{outer}, make([]byte, 32<<10))
	}()
	return client, server
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// textFrames sends 1,000 progress frames a second through the proxy and through a
// plain copy; the difference is what reading them costs.
func textFrames(t *testing.T, r *rig, s *rawServer) {
	const seconds, rate = 5, 1000
	frame := text(`{"type": "progress_state", "data": {"prompt_id": "p1", "nodes": {` + strings.Join([]string{
		`"1": {"value": 1.0, "max": 1.0, "state": "finished", "node_id": "1", "prompt_id": "p1", "display_node_id": "1", "parent_node_id": null, "real_node_id": "1"}`,
		`"2": {"value": 3, "max": 20, "state": "running", "node_id": "2", "prompt_id": "p1", "display_node_id": "2", "parent_node_id": null, "real_node_id": "2"}`,
	}, ", ") + `}}}`)
	run := func(from io.Reader, to net.Conn) time.Duration {
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = io.CopyN(io.Discard, from, int64(seconds*rate*len(frame)))
		}()
		begin, used := time.Now(), cpu()
		for i := range seconds * rate {
			time.Sleep(time.Until(begin.Add(time.Duration(i) * time.Second / rate)))
			if _, err := to.Write(frame); err != nil {
				t.Fatal(err)
			}
		}
		<-done
		return cpu() - used
	}
	_, from := rawClient(t, r, "clientId=y")
	through := run(from, <-s.conns)
	a, b := pipe(t)
	plain := run(a, b)
	figure.AtMost("proxy.text_frames_1000_per_s", 100*(through-plain).Seconds()/seconds, "% of a core", 10)
}

// openSockets counts what 1,000 idle sockets hold.
func openSockets(t *testing.T, r *rig, s *rawServer) {
	const sockets = 1000
	held := func() float64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapInuse + m.StackInuse)
	}
	before := held()
	for range sockets {
		rawClient(t, r, "clientId=z")
		<-s.conns
	}
	// The test's own two ends are in it too.
	figure.Print("proxy.memory_per_open_socket", (held()-before)/sockets/1024, "KiB")
	live, _ := r.hub.Counts()
	figure.Print("proxy.open_sockets", float64(live), "sockets")
}
