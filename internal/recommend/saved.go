// SPDX-License-Identifier: Apache-2.0

package recommend

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"math"
	"slices"
	"time"
)

// A saved week is a header, its parts as numbers of variable length, texts with their lengths and
// real numbers of eight bytes, and a checksum.
const (
	savedHeader = "otelcol-gpu week 1\n"
	// maxSavedText bounds a text, in bytes.
	maxSavedText = 4096
)

// Save returns all that the week holds, at most 20 bytes for each request that is held and 6 KiB for
// each source and each GPU of an hour. What was refused lately, and may come again, is not in it.
func (w *Week) Save() []byte {
	s := saver{bytes: append(make([]byte, 0, 1<<16+16*w.count()), savedHeader...)}
	s.whole(max(w.newest.UnixMilli(), 0)) // it is zero of a new week
	s.whole(int64(w.level))
	s.real(w.usual)
	s.whole(w.Dropped)
	hours := slices.DeleteFunc(slices.Clone(w.hours), func(h hour) bool { return len(h.gpus) == 0 })
	s.whole(int64(len(hours)))
	for _, h := range hours {
		s.whole(h.number)
		s.whole(int64(len(h.gpus)))
		for _, gpu := range slices.Sorted(maps.Keys(h.gpus)) {
			s.held(h.gpus[gpu])
		}
	}
	parts := slices.DeleteFunc(slices.Clone(w.parts[:]), func(p part) bool { return p.number == 0 })
	s.whole(int64(len(parts)))
	for _, p := range parts {
		s.whole(p.number)
		s.truth(p.held)
	}
	s.whole(int64(len(w.sources)))
	for i := range w.sources {
		s.source(&w.sources[i])
	}
	s.whole(int64(w.count()))
	before := int64(0)
	for i := range w.arrivals[w.first:] {
		a := &w.arrivals[w.first+i]
		s.whole(a.came - before)
		before = a.came
		s.small(a.work)
		s.small(a.load)
		s.whole(int64(a.source))
		s.whole(int64(a.side))
		s.truth(a.ordered)
		s.truth(a.counts)
	}
	return binary.BigEndian.AppendUint32(s.bytes, crc32.ChecksumIEEE(s.bytes))
}

// saver appends values.
type saver struct{ bytes []byte }

func (s *saver) whole(v int64) { s.bytes = binary.AppendVarint(s.bytes, v) }

func (s *saver) real(v float64) {
	s.bytes = binary.BigEndian.AppendUint64(s.bytes, math.Float64bits(v))
}

func (s *saver) small(v float32) {
	s.bytes = binary.BigEndian.AppendUint32(s.bytes, math.Float32bits(v))
}

func (s *saver) truth(v bool) {
	if v {
		s.bytes = append(s.bytes, 1)
	} else {
		s.bytes = append(s.bytes, 0)
	}
}

func (s *saver) text(v string) {
	v = v[:min(len(v), maxSavedText)]
	s.whole(int64(len(v)))
	s.bytes = append(s.bytes, v...)
}

func (s *saver) held(h *Held) {
	s.text(h.GPU)
	s.text(h.Product)
	s.whole(h.Requests)
	s.whole(h.Missed)
	for _, v := range []float64{h.Work, h.Memory, h.Time, h.Size, h.Dead} {
		s.real(v)
	}
}

func (s *saver) source(from *source) {
	for _, v := range []string{from.server, from.gpu, from.product, from.class, from.workflow, from.model} {
		s.text(v)
	}
	s.whole(int64(from.batch))
	s.whole(int64(from.steps))
	s.whole(int64(from.largest))
}

// errNotSaved is the answer to bytes that no week saved.
var errNotSaved = errors.New("not a saved week of this version")

// Load makes the week be what was saved. If that is damaged, the week is as it was.
func (w *Week) Load(saved []byte) error {
	if len(saved) < len(savedHeader)+crc32.Size || !bytes.HasPrefix(saved, []byte(savedHeader)) {
		return errNotSaved
	}
	body := saved[:len(saved)-crc32.Size]
	if crc32.ChecksumIEEE(body) != binary.BigEndian.Uint32(saved[len(body):]) {
		return fmt.Errorf("%w: its checksum is wrong", errNotSaved)
	}
	l := loader{bytes: body[len(savedHeader):]}
	loaded := New(w.settings)
	loaded.load(&l)
	if l.damaged || len(l.bytes) > 0 {
		return errNotSaved
	}
	for loaded.count() > loaded.settings.Requests { // the bound is lower now
		loaded.thin()
	}
	*w = *loaded
	return nil
}

func (w *Week) load(l *loader) {
	w.newest = time.UnixMilli(l.whole(0, maxTime))
	w.level = int(l.whole(0, maxLevel))
	w.usual = l.real()
	w.Dropped = l.whole(0, math.MaxInt64)
	for range l.whole(0, int64(hoursHeld)) {
		h := hour{l.whole(1, maxTime), map[string]*Held{}}
		for range l.whole(0, maxGPUs) {
			held := l.held()
			h.gpus[held.GPU] = &held
		}
		w.hours[h.number%int64(hoursHeld)] = h
	}
	for range l.whole(0, partsHeld) {
		p := part{l.whole(1, maxTime), l.truth()}
		w.parts[p.number%partsHeld] = p
	}
	for range l.whole(0, maxSources) {
		w.sources = append(w.sources, l.source())
	}
	before := int64(0)
	for range l.whole(0, int64(len(l.bytes))) { // each has some bytes
		a := arrival{came: before + l.whole(-maxTime, maxTime), work: l.small(), load: l.small()}
		a.source, a.side = uint16(l.whole(0, int64(len(w.sources))-1)), uint16(l.whole(0, maxSide))
		a.ordered, a.counts = l.truth(), l.truth()
		before = a.came
		if l.damaged || a.came < 0 || a.came > maxTime {
			l.damaged = true
			return
		}
		w.sources[a.source].used++
		w.arrivals = append(w.arrivals, a)
	}
	for i := range w.sources {
		s := &w.sources[i]
		if _, twice := w.byKey[s.sourceKey]; s.used == 0 || twice {
			if s.used > 0 {
				l.damaged = true
			}
			w.unused = append(w.unused, uint16(i))
			continue
		}
		w.byKey[s.sourceKey] = uint16(i)
	}
}

// maxTime bounds times, in ms since 1970: the year 2286.
const maxTime = 1e13

// loader reads values. What is damaged reads as nothing.
type loader struct {
	bytes   []byte
	damaged bool
}

// fail has everything that follows read as nothing.
func (l *loader) fail() { l.bytes, l.damaged = nil, true }

func (l *loader) whole(least, most int64) int64 {
	v, n := binary.Varint(l.bytes)
	if n <= 0 || v < least || v > most {
		l.fail()
		return 0
	}
	l.bytes = l.bytes[n:]
	return v
}

// next are the next bytes; zeros if there are too few.
func (l *loader) next(n int) []byte {
	if n > len(l.bytes) {
		l.fail()
		return make([]byte, n)
	}
	next := l.bytes[:n]
	l.bytes = l.bytes[n:]
	return next
}

// real is a number that is not negative.
func (l *loader) real() float64 {
	v := math.Float64frombits(binary.BigEndian.Uint64(l.next(8)))
	if !(v >= 0 && v < 1e18) {
		l.fail()
		return 0
	}
	return v
}

func (l *loader) small() float32 {
	v := math.Float32frombits(binary.BigEndian.Uint32(l.next(4)))
	if !(v >= 0 && v < 1e9) {
		l.fail()
		return 0
	}
	return v
}

func (l *loader) truth() bool { return l.next(1)[0] == 1 }

func (l *loader) text() string { return string(l.next(int(l.whole(0, maxSavedText)))) }

func (l *loader) held() (h Held) {
	h.GPU, h.Product = l.text(), l.text()
	h.Requests, h.Missed = l.whole(0, math.MaxInt64), l.whole(0, math.MaxInt64)
	h.Work, h.Memory, h.Time, h.Size, h.Dead = l.real(), l.real(), l.real(), l.real(), l.real()
	return h
}

func (l *loader) source() (s source) {
	s.server, s.gpu, s.product, s.class, s.workflow, s.model = l.text(), l.text(), l.text(), l.text(), l.text(), l.text()
	const many = 1 << 31
	s.batch, s.steps, s.largest = int(l.whole(1, many)), int(l.whole(0, many)), int(l.whole(0, maxSide))
	return s
}
