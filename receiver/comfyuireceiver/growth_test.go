// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/growth"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/metadata"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
)

// spanOf is a span context of its own for each number.
func spanOf(i int) trace.SpanContext {
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(i))
	sum := sha256.Sum256(n[:])
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID(sum[:16]), SpanID: trace.SpanID(sum[16:24])})
}

// countingSettler counts the prompts whose traces were handed over.
type countingSettler struct{ accepted, lost int }

func (s *countingSettler) handedOver(_ *prompt.Prompt, accepted bool) {
	if accepted {
		s.accepted++
	} else {
		s.lost++
	}
}

func newTelemetry(t *testing.T) (*metadata.TelemetryBuilder, *componenttest.Telemetry) {
	t.Helper()
	telemetry := componenttest.NewTelemetry()
	t.Cleanup(func() { require.NoError(t, telemetry.Shutdown(context.Background())) })
	builder, err := metadata.NewTelemetryBuilder(telemetry.NewTelemetrySettings())
	require.NoError(t, err)
	return builder, telemetry
}

func TestAStoredPromptCostsTheSameHoweverManyAreStored(t *testing.T) {
	with := func(slots int) func(int) {
		builder, _ := newTelemetry(t)
		s := newStore(&memoryClient{&memoryStorage{data: map[string][]byte{}}}, 20_000, zap.NewNop(), builder)
		t.Cleanup(s.stop)
		for range slots {
			s.submitted(&prompt.Prompt{Request: promptRequest()})
		}
		s.mu.Lock() // changes that waited while the storage was away
		for slot := range slots {
			s.changes[slot+1] = []byte("{}")
		}
		s.mu.Unlock()
		s.flush()
		return func(int) {
			p := &prompt.Prompt{Request: promptRequest()}
			s.submitted(p)
			s.changed(p, p.Save())
			s.flush()
			s.remove(p)
			s.flush()
		}
	}
	growth.Constant(t, "a stored prompt", with(1_000), with(10_000))
}

func TestAHandoverCostsTheSameHoweverManyAreOpen(t *testing.T) {
	with := func(open int) func(int) {
		bus, settled := &comfyevents.Bus{}, &countingSettler{}
		h := newHandovers(bus, settled, 20_000)
		for i := range open {
			h.begin(&prompt.Prompt{Context: spanOf(i)})
		}
		return func(i int) {
			p := &prompt.Prompt{Context: spanOf(1e6 + i)}
			h.begin(p)
			key := rootOfPrompt(p)
			bus.Handovers.Publish(comfyevents.Handover{Trace: key.trace, Root: key.span, Custody: comfyevents.Held})
			h.passed(p, nil)
			bus.Handovers.Publish(comfyevents.Handover{Trace: key.trace, Root: key.span, Custody: comfyevents.Accepted})
			assert.Len(t, h.open, open)
		}
	}
	growth.Constant(t, "a handover", with(1_000), with(10_000))
}

func TestALabelCostsTheSameHoweverManyAreKnown(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	with := func(known int) func(int) {
		builder, _ := newTelemetry(t)
		m := &instruments{telemetry: builder}
		l := newLabels("workflow", known, func() time.Time { return now })
		for i := range known {
			require.True(t, l.use(strconv.Itoa(i), true))
		}
		return func(i int) {
			m.label(l, strconv.Itoa(i%known), true)  // known
			m.label(l, strconv.Itoa(1e6+i), true)    // beyond the limit
			now = now.Add(2 * unusedAfter)           // all of them have become old
			m.label(l, "new"+strconv.Itoa(i), true)  // in the place of one
			m.label(l, strconv.Itoa(i%known), false) // may have lost its place
		}
	}
	growth.Constant(t, "a label", with(1_000), with(10_000))
}

func TestHandoversBeyondTheLimitLeaveTheStore(t *testing.T) {
	settled := &countingSettler{}
	h := newHandovers(&comfyevents.Bus{}, settled, 2)
	var all []*prompt.Prompt
	for i := range 4 {
		all = append(all, &prompt.Prompt{Context: spanOf(i)})
		assert.Equal(t, i < 2, h.begin(all[i]))
		require.NoError(t, growth.Within(h.Bounds()))
	}
	assert.True(t, h.begin(all[0]), "one that is sent again")
	assert.Equal(t, 2, settled.accepted)
	for _, p := range all {
		h.passed(p, nil)
	}
	assert.Equal(t, 4, settled.accepted, "each of them once")
	assert.Empty(t, h.open)
}

func TestOptionsBeyondTheLimitAreMadeAndNotHeld(t *testing.T) {
	var c optionCache
	for status := range maxSeries + 100 {
		key := requestKey{"/prompt", "GET", status}
		assert.NotNil(t, c.add(key, attribute.Int("http.response.status_code", status)))
		require.NoError(t, growth.Within(c.Bounds()))
	}
	assert.Nil(t, c.find(requestKey{"/prompt", "GET", maxSeries}))
	assert.NotNil(t, c.find(requestKey{"/prompt", "GET", 1}))
	c.add(requestKey{"/prompt", "GET", 1})
	assert.EqualValues(t, maxSeries, c.size.Load())
}

func TestExportedIdsBeyondTheLimitAreCounted(t *testing.T) {
	builder, telemetry := newTelemetry(t)
	s := &store{client: &memoryClient{}, wake: make(chan struct{}, 1), telemetry: builder}
	for i := range maxExported + 3 {
		s.addExported(strconv.Itoa(i))
	}
	require.NoError(t, growth.Within(s.Bounds()))
	assert.EqualValues(t, 3, counted(t, telemetry, "beyond_limit")["exported_id"])
}
