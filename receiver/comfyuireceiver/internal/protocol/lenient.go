// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"bytes"
	"fmt"
	"io"
)

// MaxID bounds the ids that are matched, in bytes. Ids are matched whole: a prompt with a
// longer one is relayed and not followed.
const MaxID = 8 << 10

// maxText bounds each text of a JSON document, in bytes of its encoded form: images that
// are embedded in a prompt, for example, are not held. It exceeds [MaxID].
const maxText = MaxID + 1024

// lenient makes JSON as Python writes and reads it fit for a strict parser: NaN, Infinity
// and -Infinity become 0, and texts beyond maxText end with "…" and a hash of what was
// left out, so that two long ones remain two.
func lenient(text []byte) io.Reader {
	if len(text) <= maxText && !bytes.Contains(text, []byte("NaN")) && !bytes.Contains(text, []byte("Infinity")) {
		return bytes.NewBuffer(text)
	}
	return &lenientReader{from: bytes.NewReader(text)}
}

// lenientReader is [lenient] for what is read.
type lenientReader struct {
	from io.Reader
	err  error // of from
	in   []byte
	out  []byte // filtered, and not yet read

	inText, inLiteral bool
	// escape is how many bytes of an escape sequence are still to come.
	escape int
	length int // of the text so far
	// isCut is true if a part of the text was left out; sum is its hash (FNV-1a, a byte at a
	// time).
	isCut bool
	sum   uint64
}

const (
	fnvOffset = 14695981039346656037
	fnvPrime  = 1099511628211
)

const lenientBuffer = 16 << 10

// Read implements io.Reader.
func (l *lenientReader) Read(p []byte) (int, error) {
	if l.in == nil {
		l.in = make([]byte, lenientBuffer)
	}
	for len(l.out) == 0 {
		if l.err != nil {
			return 0, l.err
		}
		var n int
		n, l.err = l.from.Read(l.in)
		l.filter(l.in[:n])
	}
	n := copy(p, l.out)
	l.out = l.out[n:]
	return n, nil
}

func (l *lenientReader) filter(in []byte) {
	l.out = l.out[:0]
	for len(in) > 0 {
		if n := l.plain(in); n > 0 {
			l.out = append(l.out, in[:n]...)
			in = in[n:]
			continue
		}
		c := in[0]
		in = in[1:]
		switch {
		case l.inText:
			l.text(c)
			continue
		case c == '"':
			l.inText, l.inLiteral, l.length = true, false, 0
		case l.inLiteral && (c|0x20 >= 'a' && c|0x20 <= 'z'):
			c = ' '
		case c == 'N' || c == 'I':
			l.inLiteral, c = true, '0'
		default:
			l.inLiteral = false
		}
		l.out = append(l.out, c)
	}
}

// plain is how many bytes at the beginning of in are within a text that is not cut, and pass
// as they are.
func (l *lenientReader) plain(in []byte) int {
	if !l.inText || l.isCut || l.escape > 0 {
		return 0
	}
	in = in[:max(0, min(len(in), maxText-l.length))]
	n := bytes.IndexAny(in, "\"\\")
	if n < 0 {
		n = len(in)
	}
	l.length += n
	return n
}

// text filters a byte of a text. A text is cut between two characters of its encoded
// form, so that what remains is valid if it was.
func (l *lenientReader) text(c byte) {
	l.length++
	isBoundary := l.escape == 0 && c&0xC0 != 0x80
	switch {
	case l.escape > 1:
		l.escape--
	case l.escape == 1 && c == 'u':
		l.escape = 4
	case l.escape == 1:
		l.escape = 0
	case c == '\\':
		l.escape = 1
	case c == '"':
		if l.isCut {
			l.out = fmt.Appendf(l.out, "…%016x", l.sum)
		}
		l.out = append(l.out, c)
		l.inText, l.isCut = false, false
		return
	}
	if !l.isCut && l.length > maxText && isBoundary {
		l.isCut, l.sum = true, fnvOffset
	}
	if l.isCut {
		l.sum = (l.sum ^ uint64(c)) * fnvPrime
		return
	}
	l.out = append(l.out, c)
}
