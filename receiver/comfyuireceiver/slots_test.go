// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/extension/xextension/storage"
	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/metadata"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

// slowGrowth is a client whose first write of the number of slots waits. It records the
// prompts that were written beyond the number that is stored, which a kill would lose.
type slowGrowth struct {
	memoryClient
	hold func()
	once sync.Once

	mu     sync.Mutex
	beyond []int
}

func (c *slowGrowth) Set(ctx context.Context, key string, value []byte) error {
	return c.Batch(ctx, storage.SetOperation(key, value))
}

func (c *slowGrowth) Batch(ctx context.Context, operations ...*storage.Operation) error {
	for _, o := range operations {
		if o.Type == storage.Set && o.Key == slotsKey {
			c.once.Do(c.hold)
		}
	}
	err := c.memoryClient.Batch(ctx, operations...)
	for _, o := range operations {
		text, isPrompt := strings.CutPrefix(o.Key, "prompt/")
		if o.Type != storage.Set || !isPrompt {
			continue
		}
		slot, _ := strconv.Atoi(text)
		stored, _ := c.Get(ctx, slotsKey)
		if n, _ := strconv.Atoi(string(stored)); n < slot {
			c.mu.Lock()
			c.beyond = append(c.beyond, slot)
			c.mu.Unlock()
		}
	}
	return err
}

// TestAPromptIsNeverBeyondTheSlotsThatAreRead stores 200 prompts at once, while the first that
// raises the number of slots is slow: the next process finds all of them.
func TestAPromptIsNeverBeyondTheSlotsThatAreRead(t *testing.T) {
	const prompts = 200
	kept := newMemoryStorage()
	builder, err := metadata.NewTelemetryBuilder(componenttest.NewNopTelemetrySettings())
	require.NoError(t, err)
	slow := &slowGrowth{memoryClient: memoryClient{kept}}
	s := newStore(slow, 1000, zap.NewNop(), builder)
	slow.once.Do(func() {})
	_, err = s.restore(t.Context())
	require.NoError(t, err)
	slow.once = sync.Once{}
	slow.hold = func() {
		waitFor(t, func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.slots == prompts
		})
	}
	var all sync.WaitGroup
	for i := range prompts {
		all.Go(func() {
			s.submitted(prompt.Discovered(&protocol.Submission{PromptID: strconv.Itoa(i)}, time.Now(), true))
		})
	}
	all.Wait()
	s.stop()
	assert.Empty(t, slow.beyond)
	next := testStore(t, kept, 1000)
	restored, err := next.restore(t.Context())
	require.NoError(t, err)
	assert.Len(t, restored, prompts)
	next.stop()
}

// idsFirst is a storage client that checks after each write that the ids of the prompts that were
// deleted are stored.
type idsFirst struct {
	memoryClient
	t *testing.T
}

func (c *idsFirst) Batch(ctx context.Context, operations ...*storage.Operation) error {
	err := c.memoryClient.Batch(ctx, operations...)
	stored := &store{client: &c.memoryClient}
	ids, _, idsErr := stored.exportedIDs(ctx)
	require.NoError(c.t, idsErr)
	c.mu.Lock()
	defer c.mu.Unlock()
	for slot := 1; slot <= 3*pageSize; slot++ {
		if c.data[slotKey(slot)] == nil {
			assert.Contains(c.t, ids, strconv.Itoa(slot), "a kill leaves neither the prompt nor its id")
		}
	}
	return err
}

// A prompt whose trace was exported is stored as a prompt or as an id, whenever a kill comes.
func TestAnExportedPromptIsStoredOrItsIDIs(t *testing.T) {
	for _, stopped := range []bool{false, true} {
		kept := newMemoryStorage()
		builder, err := metadata.NewTelemetryBuilder(componenttest.NewNopTelemetrySettings())
		require.NoError(t, err)
		s := newStore(&idsFirst{memoryClient{kept}, t}, 1000, zap.NewNop(), builder)
		var all []*prompt.Prompt
		for i := range 3 * pageSize {
			p := prompt.Discovered(&protocol.Submission{PromptID: strconv.Itoa(i + 1)}, time.Now(), true)
			p.Slot = i + 1
			kept.data[slotKey(p.Slot)] = []byte("{}")
			all = append(all, p)
		}
		if stopped { // each change is written at once
			s.stop()
			for _, p := range all[:10] {
				s.exportedPrompt(p)
			}
			continue
		}
		s.flushing.Lock()
		for _, p := range all {
			s.exportedPrompt(p)
		}
		s.flushing.Unlock()
		s.stop()
		assert.Zero(t, kept.prompts())
	}
}

// late is a storage client whose first read of the number of ids takes so long that one is added
// meanwhile.
type late struct {
	memoryClient
	meanwhile func()
}

func (c *late) Get(ctx context.Context, key string) ([]byte, error) {
	raw, err := c.memoryClient.Get(ctx, key)
	if meanwhile := c.meanwhile; key == placeKey && meanwhile != nil {
		c.meanwhile = nil
		meanwhile()
	}
	return raw, err
}

// The ids of exported prompts are read when prompts of the last run may be exported already.
func TestAnIDThatIsAddedWhileTheIDsAreReadIsKept(t *testing.T) {
	builder, err := metadata.NewTelemetryBuilder(componenttest.NewNopTelemetrySettings())
	require.NoError(t, err)
	slow := &late{memoryClient: memoryClient{newMemoryStorage()}}
	s := newStore(slow, 1000, zap.NewNop(), builder)
	s.addExported("first")
	s.stop() // each id is written at once
	slow.meanwhile = func() { s.addExported("meanwhile") }
	_, _, err = s.exportedIDs(t.Context())
	require.NoError(t, err)
	s.addExported("last")
	ids, _, err := s.exportedIDs(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []string{"first", "meanwhile", "last"}, ids)
}

// readOnly is a storage client that refuses all batches.
type readOnly struct{ memoryClient }

func (*readOnly) Batch(context.Context, ...*storage.Operation) error {
	return errors.New("read-only file system")
}

// The ids that an earlier version wrote are stored again before they are deleted.
func TestFormerIDsAreStoredBeforeTheyAreDeleted(t *testing.T) {
	builder, err := metadata.NewTelemetryBuilder(componenttest.NewNopTelemetrySettings())
	require.NoError(t, err)
	kept := newMemoryStorage()
	kept.data[formerExportedKey] = []byte(`["a","b"]`)
	for _, client := range []storage.Client{&readOnly{memoryClient{kept}}, &memoryClient{kept}, &memoryClient{kept}} {
		s := newStore(client, 1000, zap.NewNop(), builder)
		for range 2 {
			ids, stored, err := s.exportedIDs(t.Context())
			require.NoError(t, err)
			assert.True(t, stored)
			assert.Subset(t, ids, []string{"a", "b"})
		}
		s.stop()
	}
	assert.NotContains(t, kept.data, formerExportedKey)
}
