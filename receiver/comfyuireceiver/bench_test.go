// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"bufio"
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
)

// benchRig is a receiver in front of a server that answers GET /prompt.
func benchRig(b *testing.B) (*rig, *rawServer) {
	s := newRawServer(b)
	s.posts = func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"exec_info": {"queue_remaining": 0}}`)
	}
	return newRig(b, s.URL, nil), s
}

// BenchmarkLatency requests directly, through the proxy, and through the smallest possible
// proxy, in turn: what the third adds is the machine's price of one more hop.
func BenchmarkLatency(b *testing.B) {
	const rounds, warm = 4000, 400
	r, s := benchRig(b)
	direct := newRawServer(b)
	direct.Config.Handler = s.posts
	upstream, err := url.Parse(direct.URL)
	require.NoError(b, err)
	plain := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(upstream) },
		Transport: &http.Transport{MaxIdleConnsPerHost: 4},
	})
	defer plain.Close()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4}}
	defer client.CloseIdleConnections()
	bases := [...]string{direct.URL, r.base, plain.URL}
	for b.Loop() {
		var ms [len(bases)][]float64
		for i := range rounds {
			for k, base := range bases {
				begin := time.Now()
				response, err := client.Get(base + "/prompt")
				require.NoError(b, err)
				_, _ = io.Copy(io.Discard, response.Body)
				_ = response.Body.Close()
				if i >= warm {
					ms[k] = append(ms[k], float64(time.Since(begin).Microseconds())/1000)
				}
			}
		}
		added := func(k int, share float64) float64 {
			at := func(v []float64) float64 {
				slices.Sort(v)
				return v[int(float64(len(v)-1)*share)]
			}
			return at(ms[k]) - at(ms[0])
		}
		b.ReportMetric(added(1, 0.5), "added-p50-ms")
		b.ReportMetric(added(1, 0.99), "added-p99-ms")
		b.ReportMetric(added(2, 0.5), "plain-p50-ms")
		b.ReportMetric(added(2, 0.99), "plain-p99-ms")
	}
}

// BenchmarkPreviews relays previews of a megabyte, and the same bytes through a plain copy
// between two connections.
func BenchmarkPreviews(b *testing.B) {
	const frames = 2000
	r, s := benchRig(b)
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
		require.NoError(b, err)
		return float64(frames*len(preview)) / time.Since(begin).Seconds() / 1e9
	}
	for b.Loop() {
		var through, plain []float64
		for range 3 {
			_, from := rawClient(b, r, "clientId=x")
			through = append(through, measure(from, <-s.conns))
			client, server := pipe(b)
			plain = append(plain, measure(bufio.NewReaderSize(client, 4096), server))
		}
		slices.Sort(through)
		slices.Sort(plain)
		b.ReportMetric(through[1], "GB/s")
		b.ReportMetric(plain[1], "plain-GB/s")
		b.ReportMetric(through[1]/plain[1], "ratio")
	}
}

// pipe is a connection through a plain copy, as the smallest possible proxy.
func pipe(t testing.TB) (client, server net.Conn) {
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

// BenchmarkTextFrames relays progress frames, and copies them through a plain copy; the
// difference of the processor time is what reading them costs. It is reported as a share
// of one core at 1,000 frames a second.
func BenchmarkTextFrames(b *testing.B) {
	const frames, perSecond = 20_000, 1000
	r, s := benchRig(b)
	frame := text(`{"type": "progress_state", "data": {"prompt_id": "p1", "nodes": {` + strings.Join([]string{
		`"1": {"value": 1.0, "max": 1.0, "state": "finished", "node_id": "1", "prompt_id": "p1", "display_node_id": "1", "parent_node_id": null, "real_node_id": "1"}`,
		`"2": {"value": 3, "max": 20, "state": "running", "node_id": "2", "prompt_id": "p1", "display_node_id": "2", "parent_node_id": null, "real_node_id": "2"}`,
	}, ", ") + `}}}`)
	// One frame at a time, as they come: the next is written when the last has arrived.
	run := func(from io.Reader, to net.Conn) time.Duration {
		arrived := make([]byte, len(frame))
		used := cpu()
		for range frames {
			_, err := to.Write(frame)
			require.NoError(b, err)
			_, err = io.ReadFull(from, arrived)
			require.NoError(b, err)
		}
		return cpu() - used
	}
	for b.Loop() {
		_, from := rawClient(b, r, "clientId=y")
		through := run(from, <-s.conns)
		client, server := pipe(b)
		plain := run(client, server)
		b.ReportMetric(100*(through-plain).Seconds()*perSecond/frames, "%core")
	}
}

// BenchmarkOpenSockets measures the memory of idle sockets; the test's own two ends are
// included.
func BenchmarkOpenSockets(b *testing.B) {
	const sockets = 1000
	memory := func() float64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapInuse + m.StackInuse)
	}
	for b.Loop() {
		r, s := benchRig(b)
		before := memory()
		for range sockets {
			rawClient(b, r, "clientId=z")
			<-s.conns
		}
		b.ReportMetric((memory()-before)/sockets/1024, "KiB/socket")
		open, _ := r.hub.Counts()
		require.Equal(b, sockets, open)
		b.ReportMetric(float64(open), "sockets")
	}
}
