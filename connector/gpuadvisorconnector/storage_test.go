// SPDX-License-Identifier: Apache-2.0

package gpuadvisorconnector

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/extension/xextension/storage"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/otelcol-gpu/otelcol-gpu/internal/advice"
	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
)

var storageID = component.MustNewID("file_storage")

// memoryStorage is a storage extension that outlives connectors.
type memoryStorage struct {
	component.StartFunc
	component.ShutdownFunc

	mu     sync.Mutex
	values map[string][]byte
	// fails is the error of operations, unread that of those that read.
	fails, unread error
	sets          int
	// isOpen is true until the client is closed; it must not be used afterwards.
	isOpen bool
	closed int
}

var errClosed = errors.New("the client is closed")

func (s *memoryStorage) GetClient(_ context.Context, kind component.Kind, id component.ID, name string) (storage.Client, error) {
	if kind != component.KindConnector || id != connectorID || name != "" {
		return nil, fmt.Errorf("it is the storage of the connector %s, and not that of the %s %s %s", connectorID, kind, id, name)
	}
	s.isOpen = true
	return s, nil
}

func (s *memoryStorage) Get(ctx context.Context, key string) ([]byte, error) {
	o := storage.GetOperation(key)
	return o.Value, s.Batch(ctx, o)
}

func (s *memoryStorage) Set(ctx context.Context, key string, value []byte) error {
	return s.Batch(ctx, storage.SetOperation(key, value))
}

func (s *memoryStorage) Delete(ctx context.Context, key string) error {
	return s.Batch(ctx, storage.DeleteOperation(key))
}

func (s *memoryStorage) Batch(_ context.Context, operations ...*storage.Operation) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.isOpen {
		return errClosed
	}
	if s.fails != nil {
		return s.fails
	}
	if s.unread != nil && slices.ContainsFunc(operations, func(o *storage.Operation) bool { return o.Type == storage.Get }) {
		return s.unread
	}
	for _, o := range operations {
		switch o.Type {
		case storage.Get:
			o.Value = s.values[o.Key]
		case storage.Set:
			s.values[o.Key] = o.Value
			s.sets++
		case storage.Delete:
			delete(s.values, o.Key)
		}
	}
	return nil
}

func (s *memoryStorage) Close(context.Context) error {
	s.closed++
	if !s.isOpen {
		return errClosed
	}
	s.isOpen = false
	return nil
}

// kinds are the keys of kinds.
func (s *memoryStorage) kinds() (keys []string) {
	for key := range s.values {
		if strings.HasPrefix(key, "advice/kind/") {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// storing is a collector with storage.
type storing struct {
	component.Host
	extensions map[component.ID]component.Component
}

func (h storing) GetExtensions() map[component.ID]component.Component { return h.extensions }

func hostWith(extension component.Component) storing {
	return storing{componenttest.NewNopHost(), map[component.ID]component.Component{storageID: extension}}
}

func withStorage(c *Config) { c.Storage = &storageID }

func TestWhatWasLearnedOutlivesARestart(t *testing.T) {
	store := &memoryStorage{values: map[string][]byte{}}
	samples := func(r *rig) (n int) {
		for _, l := range r.advice.Learned() {
			if l.Cost == "time" {
				n += l.Samples
			}
		}
		return n
	}
	first := newStoppedRig(t, nil, withStorage)
	first.bus.Servers.Add(idle("node-1:8188"))
	stop := first.start(hostWith(store))
	for i := range 5 {
		require.NoError(t, first.traces.ConsumeTraces(t.Context(), image(strings.Repeat("x", i+1))))
	}
	require.Equal(t, 5, samples(first))
	stop()
	assert.Len(t, store.kinds(), 1)
	assert.Equal(t, 1, store.closed)

	second := newStoppedRig(t, nil, withStorage)
	second.bus.Servers.Add(idle("node-1:8188"))
	stop = second.start(hostWith(store))
	assert.Equal(t, 5, samples(second), "before anything has ended")
	requests := 0
	for _, b := range second.recommended.week.Bounds() {
		if b.Name == "recommend.Week.arrivals" {
			requests = b.Size
		}
	}
	assert.Equal(t, 5, requests, "of the week, too")
	require.NoError(t, second.traces.ConsumeTraces(t.Context(), image("another")))
	stop()
	assert.Len(t, store.kinds(), 1, "in its place")
}

// TestAShortageOutlivesARestart: what ran within the last hour still has too little memory.
func TestAShortageOutlivesARestart(t *testing.T) {
	store := &memoryStorage{values: map[string][]byte{}}
	begin := func() (r *rig, stop func()) {
		r = newStoppedRig(t, nil, withStorage)
		r.bus.Servers.Add(&server{comfyevents.Server{Name: theServer, GPUs: []string{gpuID}, Memory: comfyevents.Memory{Context: 1 << 30, At: time.Now()}}})
		stop = r.start(hostWith(store))
		// Another program holds all but 2 GiB.
		r.advice.Refresh([]advice.GPU{{ID: gpuID, Capacity: 8 << 30, Used: 7 << 30, At: time.Now(), Utilization: -1}})
		return r, stop
	}
	shortage := func(r *rig) int64 { return r.advice.Loads([]string{gpuID})[gpuID].Shortage }
	first, stop := begin()
	for i := range 5 {
		p := sent(strings.Repeat("x", i+1), time.Minute, 2*time.Second, map[string]any{"comfyui.prompt.outcome": "error", "error.type": "out_of_memory"})
		p.Execution[semconv.MemoryActivePeak], p.Execution[semconv.MemoryReservedPeak] = 3<<30, 3<<30
		require.NoError(t, first.traces.ConsumeTraces(t.Context(), p.Traces()))
	}
	require.Positive(t, shortage(first))
	before := shortage(first)
	stop()
	second, stop := begin()
	assert.Equal(t, before, shortage(second), "before anything has ended")
	stop()
	store.values[restKey] = []byte(`{"version":1,"ran":{"a":7}}`)
	third, stop := begin()
	assert.Zero(t, shortage(third), "what is damaged is learned again")
	stop()
}

// idle is a server on the GPU with nothing to do.
func idle(name string) comfyevents.Source {
	return &server{comfyevents.Server{Name: name, GPUs: []string{gpuID}, Version: "0.3"}}
}

func TestDamagedDataIsLearnedAgain(t *testing.T) {
	store := &memoryStorage{isOpen: true, values: map[string][]byte{kindKey(0): []byte("{"), kindKey(3): []byte(`{"version":99}`), restKey: []byte("x"), weekKey: []byte("y")}}
	logs, seen := observer.New(zap.WarnLevel)
	s := newSaved(store, zap.New(logs))
	s.load(t.Context())
	require.Equal(t, 1, seen.Len())
	assert.Contains(t, seen.All()[0].ContextMap()["error"], "damaged")
	assert.Len(t, s.free, advice.MaxKinds, "what is damaged is written over")
}

func newSaved(client storage.Client, log *zap.Logger) *saved {
	advisor := advice.NewAdvisor(advice.DefaultSettings(), &comfyevents.Servers{}, time.Now, nil)
	recommended := newRecommender(createDefaultConfig().(*Config), advisor, time.Now)
	return &saved{client: client, advisor: advisor, recommended: recommended, log: log, now: time.Now, weekSaved: time.Now(), slots: map[advice.Kind]int{}, unsaved: map[advice.Kind][]byte{}}
}

func TestWhatCouldNotBeSavedIsSavedLater(t *testing.T) {
	store := &memoryStorage{values: map[string][]byte{}}
	r := newStoppedRig(t, nil, withStorage)
	r.bus.Servers.Add(idle("node-1:8188"))
	stop := r.start(hostWith(store))
	defer stop()
	logs, seen := observer.New(zap.InfoLevel)
	s := newSaved(store, zap.New(logs))
	s.advisor = r.advice
	s.load(t.Context())
	require.NoError(t, r.traces.ConsumeTraces(t.Context(), image("a")))
	store.fails = errors.New("the disk is full")
	s.save(t.Context())
	s.save(t.Context())
	require.Equal(t, 1, seen.Len(), "once")
	store.fails = nil
	s.save(t.Context())
	assert.Len(t, store.kinds(), 1)
	assert.Equal(t, 2, seen.Len(), "that it works again")
	sets := store.sets
	s.save(t.Context())
	assert.Equal(t, sets+1, store.sets, "nothing was learned: the rest alone is written")
}

func TestMistakesOfStorageAreNamed(t *testing.T) {
	for want, host := range map[string]component.Host{
		`storage: "file_storage" is not a configured extension; add it to extensions and to service::extensions`: componenttest.NewNopHost(),
		`storage: "file_storage" is not a storage extension; use one, for example file_storage`:                  hostWith(struct{ component.Component }{}),
	} {
		r := newStoppedRig(t, nil, withStorage)
		require.EqualError(t, r.metrics.Start(t.Context(), host), want)
		require.NoError(t, r.metrics.Shutdown(t.Context()))
		require.NoError(t, r.telemetry.Shutdown(t.Context()))
	}
}

// TestWhatCannotBeReadAtTheStartIsNotWrittenOver: it is read as soon as that is possible.
func TestWhatCannotBeReadAtTheStartIsNotWrittenOver(t *testing.T) {
	store := &memoryStorage{values: map[string][]byte{}}
	run := func(during func(r *rig)) {
		r := newStoppedRig(t, nil, withStorage)
		r.bus.Servers.Add(idle("node-1:8188"))
		stop := r.start(hostWith(store))
		during(r)
		stop()
	}
	run(func(r *rig) {
		for i := range 5 {
			require.NoError(t, r.traces.ConsumeTraces(t.Context(), image(strings.Repeat("x", i+1))))
		}
	})
	before := maps.Clone(store.values)
	require.Len(t, before, 3, "a kind, the rest and the week")

	store.unread = errors.New("the disk does not answer")
	run(func(r *rig) { require.NoError(t, r.traces.ConsumeTraces(t.Context(), image("another"))) })
	assert.Equal(t, before, store.values)

	logs, seen := observer.New(zap.InfoLevel)
	s := newSaved(store, zap.New(logs))
	store.isOpen = true
	s.load(t.Context())
	s.save(t.Context())
	s.weekSaved = time.Time{}
	s.save(t.Context())
	assert.Equal(t, 1, seen.Len(), "once")
	assert.Equal(t, before, store.values)
	store.unread = nil
	s.save(t.Context())
	assert.Equal(t, 2, seen.Len(), "that it is read")
	assert.Len(t, s.slots, 1)
	assert.EqualValues(t, 5, s.recommended.Recommendations().All.Requests)
}

// TestAFailedStartClosesTheStorageOnce: the collector shuts down what did not start, too.
func TestAFailedStartClosesTheStorageOnce(t *testing.T) {
	other := newRig(t, nil)
	store := &memoryStorage{values: map[string][]byte{}}
	r := newStoppedRig(t, nil, func(c *Config) {
		withStorage(c)
		c.Page.NetAddr.Endpoint = other.address
	})
	require.ErrorContains(t, r.metrics.Start(t.Context(), hostWith(store)), "page::endpoint")
	require.NoError(t, r.metrics.Shutdown(t.Context()))
	require.NoError(t, r.telemetry.Shutdown(t.Context()))
	assert.Equal(t, 1, store.closed)
}
