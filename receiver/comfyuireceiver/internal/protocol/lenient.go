// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
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
	// escape is an escape sequence that has begun, and surrogate the first half of a pair.
	escape    []byte
	surrogate rune
	length    int // of the text so far
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
			l.inText, l.inLiteral, l.length, l.surrogate, l.escape = true, false, 0, 0, l.escape[:0]
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
	if !l.inText || l.isCut || len(l.escape) > 0 || l.surrogate != 0 {
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

// text filters a byte of a text. Escape sequences are replaced by what they stand for, so that
// a text is the same, and is cut at the same place, whoever encoded it.
func (l *lenientReader) text(c byte) {
	switch {
	case len(l.escape) > 0:
		l.escape = append(l.escape, c)
		if l.escape[1] == 'u' && len(l.escape) < len(`\u0000`) && c != '"' && c != '\\' {
			return
		}
		l.unescaped(l.escape)
		l.escape = l.escape[:0]
	case c == '\\':
		l.escape = append(l.escape, c)
	case c == '"':
		l.loneSurrogate()
		if l.isCut {
			l.out = fmt.Appendf(l.out, "…%016x", l.sum)
		}
		l.out = append(l.out, c)
		l.inText, l.isCut = false, false
	default:
		l.loneSurrogate()
		l.put(c, c&0xC0 != 0x80)
	}
}

// unescaped puts what an escape sequence stands for. Quotes, backslashes and control
// characters remain escaped, and so does what is not a valid sequence.
func (l *lenientReader) unescaped(sequence []byte) {
	r := rune(-1)
	switch sequence[1] {
	case 'u':
		if code, err := strconv.ParseUint(string(sequence[2:]), 16, 16); err == nil && len(sequence) == len(`\u0000`) {
			r = rune(code)
		}
	case '/':
		r = '/'
	case 'b', 'f', 'n', 'r', 't':
		r = map[byte]rune{'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}[sequence[1]]
	}
	first := l.surrogate
	switch {
	case first != 0 && utf16.IsSurrogate(r) && utf16.DecodeRune(first, r) != utf8.RuneError:
		l.surrogate = 0
		r = utf16.DecodeRune(first, r)
	case r >= 0xD800 && r < 0xDC00:
		l.loneSurrogate()
		l.surrogate = r
		return
	default:
		l.loneSurrogate()
	}
	switch {
	case r < 0: // a quote, a backslash, or not valid
		for i, c := range sequence {
			l.put(c, i == 0)
		}
	case r < ' ' || r == '"' || r == '\\':
		for i, c := range fmt.Appendf(nil, `\u%04x`, r) {
			l.put(c, i == 0)
		}
	default:
		for i, c := range utf8.AppendRune(nil, r) {
			l.put(c, i == 0)
		}
	}
}

// loneSurrogate puts the first half of a pair that has no second one.
func (l *lenientReader) loneSurrogate() {
	if l.surrogate == 0 {
		return
	}
	l.surrogate = 0
	for i, c := range utf8.AppendRune(nil, utf8.RuneError) {
		l.put(c, i == 0)
	}
}

// put passes a byte of a text, or leaves it out beyond the bound. A text is cut at the
// beginning of a character, or where there is none.
func (l *lenientReader) put(c byte, begins bool) {
	l.length++
	if !l.isCut && l.length > maxText && (begins || l.length > maxText+utf8.UTFMax) {
		l.isCut, l.sum = true, fnvOffset
	}
	if l.isCut {
		l.sum = (l.sum ^ uint64(c)) * fnvPrime
		return
	}
	l.out = append(l.out, c)
}
