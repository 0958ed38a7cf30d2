// SPDX-License-Identifier: Apache-2.0

// Package frames parses WebSocket frames without changing them, and assembles the text
// messages among them (RFC 6455; compression by RFC 7692).
package frames

import (
	"bufio"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Opcodes of RFC 6455, section 5.2.
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xA
)

// Header is a frame's header, with its bytes as they were received.
type Header struct {
	Fin, Compressed, Masked bool
	Opcode                  byte
	Length                  uint64
	Mask                    [4]byte
	raw                     [14]byte
	size                    int
}

// Raw is the header's bytes as they were received. They are valid until the next
// ReadHeader.
func (h *Header) Raw() []byte { return h.raw[:h.size] }

// Close reports whether the frame ends the connection.
func (h *Header) Close() bool { return h.Opcode == opClose }

// Ping reports whether the frame must be answered with a pong.
func (h *Header) Ping() bool { return h.Opcode == opPing }

// Control reports whether the frame is a control frame, which has at most 125 bytes.
func (h *Header) Control() bool { return h.Opcode&0x8 != 0 }

// Kind is control, binary or text.
func (h *Header) Kind() string {
	switch {
	case h.Control():
		return "control"
	case h.Opcode == opBinary:
		return "binary"
	}
	return "text"
}

var errHeader = errors.New("invalid WebSocket frame")

// ReadHeader reads the next frame's header into h.
func ReadHeader(r *bufio.Reader, h *Header) error {
	*h = Header{}
	if err := h.read(r, 2); err != nil {
		return err
	}
	h.Fin, h.Compressed, h.Opcode = h.raw[0]&0x80 != 0, h.raw[0]&0x40 != 0, h.raw[0]&0x0F
	h.Masked, h.Length = h.raw[1]&0x80 != 0, uint64(h.raw[1]&0x7F)
	switch h.Length {
	case 126:
		if err := h.read(r, 2); err != nil {
			return err
		}
		h.Length = uint64(binary.BigEndian.Uint16(h.raw[2:]))
	case 127:
		if err := h.read(r, 8); err != nil {
			return err
		}
		h.Length = binary.BigEndian.Uint64(h.raw[2:])
		if h.Length>>63 != 0 {
			return fmt.Errorf("%w: length %d", errHeader, h.Length)
		}
	}
	if h.Control() && h.Length > 125 {
		return fmt.Errorf("%w: control frame of %d bytes", errHeader, h.Length)
	}
	if h.Masked {
		copy(h.Mask[:], h.raw[h.size:])
		if err := h.read(r, 4); err != nil {
			return err
		}
		copy(h.Mask[:], h.raw[h.size-4:h.size])
	}
	return nil
}

func (h *Header) read(r *bufio.Reader, n int) error {
	_, err := io.ReadFull(r, h.raw[h.size:h.size+n])
	h.size += n
	return err
}

// Unmask removes a client's mask from a payload, or applies it.
func Unmask(payload []byte, mask [4]byte) {
	for i := range payload {
		payload[i] ^= mask[i&3]
	}
}

// control builds a control frame. A client's frame must be masked: the mask of zeros is
// allowed and leaves the payload readable.
func control(opcode byte, payload []byte, masked bool) []byte {
	frame := []byte{0x80 | opcode, byte(len(payload))}
	if masked {
		frame[1] |= 0x80
		frame = append(frame, 0, 0, 0, 0)
	}
	return append(frame, payload...)
}

// CloseFrame is a close frame: a status code in two bytes, and a reason.
func CloseFrame(payload []byte, masked bool) []byte { return control(opClose, payload, masked) }

// PongFrame answers a ping with its payload.
func PongFrame(payload []byte, masked bool) []byte { return control(opPong, payload, masked) }

// Sink receives the text messages of a Reader.
type Sink interface {
	// Text receives one message, which is valid until the method returns.
	Text(message []byte)
	// Unparsed counts a message that is too long or damaged.
	Unparsed()
}

// Reader assembles text messages from the frames of one direction of a connection. For
// each frame call Wants and, if it reports true, fill Buffer and call Filled.
type Reader struct {
	// limit bounds a message in bytes, compressed and inflated.
	limit int
	sink  Sink

	buffer     []byte
	text       bool // the message is text
	compressed bool
	over       bool // the message exceeds the limit
	deflate    *inflater
}

// NewReader makes a reader for a connection with the given Sec-WebSocket-Extensions
// header of the server.
func NewReader(limit int, extensions string, sink Sink) *Reader {
	r := &Reader{limit: limit, sink: sink}
	for extension := range strings.SplitSeq(strings.ToLower(extensions), ",") {
		name, parameters, _ := strings.Cut(strings.TrimSpace(extension), ";")
		if strings.TrimSpace(name) == "permessage-deflate" {
			r.deflate = &inflater{keep: !strings.Contains(parameters, "server_no_context_takeover"), limit: limit}
		}
	}
	return r
}

// Wants reports whether the reader needs the frame's payload.
func (r *Reader) Wants(h *Header) bool {
	if h.Control() {
		return false
	}
	if h.Opcode != opContinuation {
		r.buffer, r.over = r.buffer[:0], false
		r.text, r.compressed = h.Opcode == opText, h.Compressed
	}
	// With context takeover, each message is needed to inflate the next one.
	needed := r.compressed && r.deflate != nil && r.deflate.keep
	if !r.text && !needed {
		return false
	}
	if uint64(len(r.buffer))+h.Length > uint64(r.limit) {
		r.over = true
	}
	if r.over {
		if h.Fin {
			r.fail()
		}
		return false
	}
	return true
}

// Buffer is space for the payload of a frame for which Wants reported true.
func (r *Reader) Buffer(h *Header) []byte {
	from := len(r.buffer)
	r.buffer = slices.Grow(r.buffer, int(h.Length))[:from+int(h.Length)]
	return r.buffer[from:]
}

// Filled processes the frame whose payload was read into Buffer.
func (r *Reader) Filled(h *Header) {
	if !h.Fin {
		return
	}
	text := r.buffer
	if r.compressed {
		if r.deflate == nil {
			r.sink.Unparsed()
			return
		}
		var err error
		if text, err = r.deflate.inflate(r.buffer); err != nil {
			r.fail()
			return
		}
	}
	if r.text {
		r.sink.Text(text)
	}
	if cap(r.buffer) > maxIdleBuffer {
		r.buffer = nil // the caller's payload remains valid
	}
}

// maxIdleBuffer bounds each buffer that a reader keeps between messages.
const maxIdleBuffer = 64 << 10

// fail drops a message. With context takeover, all later compressed messages are
// dropped too.
func (r *Reader) fail() {
	r.sink.Unparsed()
	r.buffer = nil
	if r.compressed && r.deflate != nil && r.deflate.keep {
		r.deflate = nil
	}
}

// inflater reverses permessage-deflate.
type inflater struct {
	// keep is true if the window is kept between messages (context takeover).
	keep   bool
	limit  int
	window []byte
	out    bytes.Buffer
	reader io.ReadCloser
}

// tail completes a message's stream: the empty block that the sender removed, and a
// final block.
const tail = "\x00\x00\xff\xff\x01\x00\x00\xff\xff"

const windowSize = 32 << 10

var errTooLong = errors.New("inflated message exceeds the limit")

func (d *inflater) inflate(compressed []byte) ([]byte, error) {
	source := io.MultiReader(bytes.NewReader(compressed), strings.NewReader(tail))
	if d.reader == nil {
		d.reader = flate.NewReaderDict(source, d.window)
	} else if err := d.reader.(flate.Resetter).Reset(source, d.window); err != nil {
		return nil, err
	}
	d.out.Reset()
	n, err := io.Copy(&d.out, io.LimitReader(d.reader, int64(d.limit)+1))
	switch {
	case err != nil:
		return nil, err
	case n > int64(d.limit):
		return nil, errTooLong
	}
	text := d.out.Bytes()
	if d.keep {
		d.slide(text)
	}
	if d.out.Cap() > maxIdleBuffer {
		d.out = bytes.Buffer{} // the caller's text remains valid
	}
	return text, nil
}

// slide adds a text to the window, of which the end is kept.
func (d *inflater) slide(text []byte) {
	if d.window == nil {
		d.window = make([]byte, 0, windowSize)
	}
	if len(text) >= windowSize {
		d.window = append(d.window[:0], text[len(text)-windowSize:]...)
		return
	}
	if over := len(d.window) + len(text) - windowSize; over > 0 {
		d.window = append(d.window[:0], d.window[over:]...)
	}
	d.window = append(d.window, text...)
}
