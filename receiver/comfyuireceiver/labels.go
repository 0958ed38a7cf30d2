// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"container/list"
	"context"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// unusedAfter is how long a value of an attribute keeps its place without being used.
const unusedAfter = time.Hour

// labels bounds the values of an attribute: the first ones up to the limit. A value that has
// not been used for unusedAfter gives its place to a new one.
type labels struct {
	what  string // as in receiver.comfyui.folded
	limit int
	now   func() time.Time

	mu    sync.Mutex
	known map[string]*list.Element // guarded by mu, as is byUse
	byUse *list.List               // of *usedLabel, the last used in front
}

type usedLabel struct {
	value string
	used  time.Time
}

func newLabels(what string, limit int, now func() time.Time) *labels {
	return &labels{what: what, limit: limit, now: now, known: map[string]*list.Element{}, byUse: list.New()}
}

// use reports whether a value has a place. With add, a new value gets one if there is one.
func (l *labels) use(value string, add bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if e := l.known[value]; e != nil {
		e.Value.(*usedLabel).used = now
		l.byUse.MoveToFront(e)
		return true
	}
	if !add {
		return false
	}
	if len(l.known) >= l.limit {
		last := l.byUse.Back().Value.(*usedLabel)
		if now.Sub(last.used) < unusedAfter {
			return false
		}
		delete(l.known, last.value)
		l.byUse.Remove(l.byUse.Back())
	}
	l.known[value] = l.byUse.PushFront(&usedLabel{value, now})
	return true
}

// label returns a value if it has a place, or with add if it gets one, else other.
func (m *instruments) label(l *labels, value string, add bool) string {
	if value == "" || l.use(value, add) {
		return value
	}
	m.telemetry.ReceiverComfyuiFolded.Add(context.Background(), 1, metric.WithAttributes(attribute.String("comfyui.what", l.what)))
	return other
}
