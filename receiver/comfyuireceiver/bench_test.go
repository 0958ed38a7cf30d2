// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/extension/xextension/storage"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/metadata"
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
// proxy, in turn: what the third adds is the machine's price of one more hop. Of nine turns
// the median is reported, since a single one varies by a third.
func BenchmarkLatency(b *testing.B) {
	const turns, rounds, warm = 9, 2000, 200
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
		var p50, p99, plain50, plain99, ratio []float64
		for range turns {
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
			for k := range ms {
				slices.Sort(ms[k])
			}
			added := func(k int, share float64) float64 {
				at := func(v []float64) float64 { return v[int(float64(len(v)-1)*share)] }
				return at(ms[k]) - at(ms[0])
			}
			p50, p99 = append(p50, added(1, 0.5)), append(p99, added(1, 0.99))
			plain50, plain99 = append(plain50, added(2, 0.5)), append(plain99, added(2, 0.99))
			ratio = append(ratio, added(1, 0.99)/added(2, 0.99))
		}
		b.ReportMetric(median(p50), "added-p50-ms")
		b.ReportMetric(median(p99), "added-p99-ms")
		b.ReportMetric(median(plain50), "plain-p50-ms")
		b.ReportMetric(median(plain99), "plain-p99-ms")
		b.ReportMetric(median(ratio), "added-p99-ratio")
	}
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// boltStorage is a storage as file_storage makes it without fsync.
type boltStorage struct {
	component.StartFunc
	component.ShutdownFunc
	path string
}

func (s *boltStorage) GetClient(context.Context, component.Kind, component.ID, string) (storage.Client, error) {
	db, err := bbolt.Open(s.path, 0o600, &bbolt.Options{NoSync: true, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		return nil, err
	}
	return &boltClient{db}, db.Update(func(tx *bbolt.Tx) error { _, err := tx.CreateBucketIfNotExists(boltBucket); return err })
}

var boltBucket = []byte("default")

type boltClient struct{ db *bbolt.DB }

func (c *boltClient) Get(ctx context.Context, key string) ([]byte, error) {
	o := storage.GetOperation(key)
	return o.Value, c.Batch(ctx, o)
}

func (c *boltClient) Set(ctx context.Context, key string, value []byte) error {
	return c.Batch(ctx, storage.SetOperation(key, value))
}

func (c *boltClient) Delete(ctx context.Context, key string) error {
	return c.Batch(ctx, storage.DeleteOperation(key))
}

func (c *boltClient) Batch(_ context.Context, operations ...*storage.Operation) error {
	return c.db.Update(func(tx *bbolt.Tx) (err error) {
		bucket := tx.Bucket(boltBucket)
		for _, o := range operations {
			switch o.Type {
			case storage.Get:
				o.Value = slices.Clone(bucket.Get([]byte(o.Key)))
			case storage.Set:
				err = errors.Join(err, bucket.Put([]byte(o.Key), o.Value))
			case storage.Delete:
				err = errors.Join(err, bucket.Delete([]byte(o.Key)))
			}
		}
		return err
	})
}

func (c *boltClient) Close(context.Context) error { return c.db.Close() }

// BenchmarkPromptWithStorage sends prompts of 20 kB directly and through the proxy, which
// stores each before it passes it on.
func BenchmarkPromptWithStorage(b *testing.B) {
	const rounds, warm = 2000, 200
	var n atomic.Int64
	direct := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = fmt.Fprintf(w, `{"prompt_id": "p%d", "number": 1, "node_errors": {}}`, n.Add(1))
	}))
	defer direct.Close()
	cfg := createDefaultConfig().(*Config)
	cfg.Upstream.Endpoint, cfg.Device, cfg.PollInterval = direct.URL, "", time.Hour
	cfg.Proxy.NetAddr.Endpoint = "127.0.0.1:0"
	cfg.Storage = &storageID
	r := newReceiver(receivertest.NewNopSettings(metadata.Type), cfg)
	r.traces = consumertest.NewNop()
	kept := &boltStorage{path: filepath.Join(b.TempDir(), "store")}
	require.NoError(b, r.Start(b.Context(), hostWith{componenttest.NewNopHost(), map[component.ID]component.Component{storageID: kept}}))
	defer func() { require.NoError(b, r.Shutdown(context.Background())) }()
	nodes := make([]string, 0, 60)
	for i := range 60 {
		nodes = append(nodes, fmt.Sprintf(`"%d": {"class_type": "Node%d", "inputs": {"from": ["%d", 0], "text": %q, "x": %d}, "_meta": {"title": "Node %d"}}`, i, i%7, i-1, strings.Repeat("word ", 46), i, i))
	}
	body := `{"client_id": "c", "prompt": {` + strings.Join(nodes, ", ") + `}}`
	require.InDelta(b, 20_000, len(body), 1500)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4}}
	defer client.CloseIdleConnections()
	for b.Loop() {
		var ms [2][]float64
		for i := range rounds {
			for k, base := range []string{direct.URL, "http://" + r.address} {
				begin := time.Now()
				response, err := client.Post(base+"/prompt", "application/json", strings.NewReader(body))
				require.NoError(b, err)
				_, _ = io.Copy(io.Discard, response.Body)
				_ = response.Body.Close()
				if i >= warm {
					ms[k] = append(ms[k], float64(time.Since(begin).Microseconds())/1000)
				}
			}
		}
		slices.Sort(ms[0])
		slices.Sort(ms[1])
		at := func(share float64) float64 {
			i := int(float64(len(ms[0])-1) * share)
			return ms[1][i] - ms[0][i]
		}
		b.ReportMetric(at(0.5), "added-p50-ms")
		b.ReportMetric(at(0.99), "added-p99-ms")
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
