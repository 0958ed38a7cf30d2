// SPDX-License-Identifier: Apache-2.0

package frames

import (
	"bufio"
	"bytes"
	"compress/flate"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// run passes bytes through a reader as a socket does, and returns the text messages.
func run(t testing.TB, stream []byte, limit int, extensions string) (texts []string, skipped int) {
	t.Helper()
	var s sink
	r := NewReader(limit, extensions, &s)
	from := bufio.NewReader(bytes.NewReader(stream))
	var h Header
	for ReadHeader(from, &h) == nil {
		if r.Wants(&h) {
			if _, err := io.ReadFull(from, r.Buffer(&h)); err != nil {
				return s.texts, s.unparsed
			}
			r.Filled(&h)
		} else if _, err := io.CopyN(io.Discard, from, int64(h.Length)); err != nil {
			return s.texts, s.unparsed
		}
	}
	return s.texts, s.unparsed
}

type sink struct {
	texts    []string
	unparsed int
}

func (s *sink) Text(b []byte) { s.texts = append(s.texts, string(b)) }
func (s *sink) Unparsed()     { s.unparsed++ }

// frame builds one frame of a server.
func frame(first byte, payload string) []byte {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, byte(n))
	case n < 1<<16:
		b = append(b, 126, byte(n>>8), byte(n))
	default:
		b = append(b, 127, 0, 0, 0, 0, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	}
	return append(b, payload...)
}

func TestTextIsPutTogetherFromFragmentsWithControlFramesBetween(t *testing.T) {
	var stream []byte
	stream = append(stream, frame(0x01, "one ")...)
	stream = append(stream, frame(0x89, "ping")...)
	stream = append(stream, frame(0x00, strings.Repeat("two ", 50))...)
	stream = append(stream, frame(0x80, "three")...)
	stream = append(stream, frame(0x82, strings.Repeat("\x00", 70000))...)
	stream = append(stream, frame(0x81, "whole")...)
	texts, skipped := run(t, stream, 1000, "")
	assert.Equal(t, []string{"one " + strings.Repeat("two ", 50) + "three", "whole"}, texts)
	assert.Zero(t, skipped)
}

func TestMessageBeyondTheLimitIsSkippedAndTheNextRead(t *testing.T) {
	var stream []byte
	stream = append(stream, frame(0x81, strings.Repeat("x", 200))...)
	stream = append(stream, frame(0x01, strings.Repeat("x", 60))...)
	stream = append(stream, frame(0x80, strings.Repeat("x", 60))...)
	stream = append(stream, frame(0x81, "short")...)
	texts, skipped := run(t, stream, 100, "")
	assert.Equal(t, []string{"short"}, texts)
	assert.Equal(t, 2, skipped)
}

// deflated compresses messages as a server does, with or without its window kept.
func deflated(t *testing.T, keep bool, messages ...string) (stream []byte) {
	t.Helper()
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, 6)
	require.NoError(t, err)
	for _, m := range messages {
		out.Reset()
		if !keep {
			w.Reset(&out)
		}
		_, err := w.Write([]byte(m))
		require.NoError(t, err)
		require.NoError(t, w.Flush())
		stream = append(stream, frame(0xC1, strings.TrimSuffix(out.String(), "\x00\x00\xff\xff"))...)
	}
	return stream
}

func TestCompressedTextIsReadWithAndWithoutItsContext(t *testing.T) {
	messages := []string{
		`{"type": "progress", "data": {"value": 1}}`, `{"type": "progress", "data": {"value": 2}}`,
		strings.Repeat(`{"type": "progress_state"}`, 3000), `{"type": "progress", "data": {"value": 3}}`,
	}
	for _, keep := range []bool{true, false} {
		extensions := "permessage-deflate"
		if !keep {
			extensions += "; server_no_context_takeover"
		}
		texts, skipped := run(t, deflated(t, keep, messages...), 1<<20, extensions)
		assert.Equal(t, messages, texts)
		assert.Zero(t, skipped)
	}
}

func TestCompressedBombIsNotInflated(t *testing.T) {
	texts, skipped := run(t, deflated(t, false, strings.Repeat("\x00", 10<<20), "next"), 1<<20, "permessage-deflate; server_no_context_takeover")
	assert.Equal(t, []string{"next"}, texts)
	assert.Equal(t, 1, skipped)
}

func FuzzFrames(f *testing.F) {
	f.Add(frame(0x81, `{"type": "status"}`), "")
	f.Add(frame(0xC1, "\xaa\x56\x2a\xa9\x2c\x48\x55\xb2\x52\x00"), "permessage-deflate")
	f.Add([]byte{0x81, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 1}, "permessage-deflate; client_max_window_bits")
	f.Add([]byte{0x89, 0x7E, 0xFF, 0xFF}, "")
	f.Fuzz(func(t *testing.T, stream []byte, extensions string) {
		const limit = 4096
		texts, _ := run(t, stream, limit, extensions)
		for _, text := range texts {
			assert.LessOrEqual(t, len(text), limit)
		}
	})
}

// S16: after a large compressed text, a reader keeps little.
func TestLittleIsKeptAfterALargeText(t *testing.T) {
	text := strings.Repeat("0123456789abcdef", 4<<20/16)
	for _, extensions := range []string{"permessage-deflate", "permessage-deflate; server_no_context_takeover"} {
		var compressed bytes.Buffer
		w, err := flate.NewWriter(&compressed, flate.NoCompression)
		require.NoError(t, err)
		_, err = w.Write([]byte(text))
		require.NoError(t, err)
		require.NoError(t, w.Flush())
		var s sink
		r := NewReader(5<<20, extensions, &s)
		from := bufio.NewReader(bytes.NewReader(frame(0xC1, strings.TrimSuffix(compressed.String(), "\x00\x00\xff\xff"))))
		var h Header
		require.NoError(t, ReadHeader(from, &h))
		require.True(t, r.Wants(&h))
		_, err = io.ReadFull(from, r.Buffer(&h))
		require.NoError(t, err)
		r.Filled(&h)
		require.Equal(t, []string{text}, s.texts)
		assert.LessOrEqual(t, cap(r.buffer)+r.deflate.out.Cap()+cap(r.deflate.window), 2*maxIdleBuffer+windowSize, extensions)
	}
}
