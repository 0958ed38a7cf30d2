// SPDX-License-Identifier: Apache-2.0

// Package frames passes WebSocket frames on byte for byte and reads the text
// messages among them on the way (RFC 6455; compression by RFC 7692).
package frames

import (
	"bufio"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// The opcodes that matter here.
const (
	opContinuation = 0x0
	opText         = 0x1
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xA
)

// Header is a frame's header, with the bytes that it came in.
type Header struct {
	Fin, Compressed, Masked bool
	Opcode                  byte
	Length                  uint64
	Mask                    [4]byte
	raw                     [14]byte
	size                    int
}

// Raw are the header's bytes as they came.
func (h *Header) Raw() []byte { return h.raw[:h.size] }

// Close reports whether the frame ends the connection.
func (h *Header) Close() bool { return h.Opcode == opClose }

// Ping reports whether the frame wants a pong.
func (h *Header) Ping() bool { return h.Opcode == opPing }

// Control reports whether the frame is a control frame, 125 bytes at most.
func (h *Header) Control() bool { return h.Opcode&0x8 != 0 }

var errHeader = errors.New("damaged WebSocket frame")

// ReadHeader reads the next frame's header into h.
func ReadHeader(r *bufio.Reader, h *Header) error {
	*h = Header{}
	take := func(n int) error {
		_, err := io.ReadFull(r, h.raw[h.size:h.size+n])
		h.size += n
		return err
	}
	if err := take(2); err != nil {
		return err
	}
	h.Fin, h.Compressed, h.Opcode = h.raw[0]&0x80 != 0, h.raw[0]&0x40 != 0, h.raw[0]&0x0F
	h.Masked, h.Length = h.raw[1]&0x80 != 0, uint64(h.raw[1]&0x7F)
	switch h.Length {
	case 126:
		if err := take(2); err != nil {
			return err
		}
		h.Length = uint64(binary.BigEndian.Uint16(h.raw[2:]))
	case 127:
		if err := take(8); err != nil {
			return err
		}
		h.Length = binary.BigEndian.Uint64(h.raw[2:])
		if h.Length>>63 != 0 {
			return fmt.Errorf("%w: its length is %d", errHeader, h.Length)
		}
	}
	if h.Control() && h.Length > 125 {
		return fmt.Errorf("%w: a control frame of %d bytes", errHeader, h.Length)
	}
	if h.Masked {
		copy(h.Mask[:], h.raw[h.size:])
		if err := take(4); err != nil {
			return err
		}
		copy(h.Mask[:], h.raw[h.size-4:h.size])
	}
	return nil
}

// Unmask takes a client's mask off a payload, or puts it on.
func Unmask(payload []byte, mask [4]byte) {
	for i := range payload {
		payload[i] ^= mask[i&3]
	}
}

// control builds a control frame; a client's is masked, with a mask of zeros,
// which the protocol allows and which hides nothing.
func control(opcode byte, payload []byte, masked bool) []byte {
	frame := []byte{0x80 | opcode, byte(len(payload))}
	if masked {
		frame[1] |= 0x80
		frame = append(frame, 0, 0, 0, 0)
	}
	return append(frame, payload...)
}

// CloseFrame is a frame that ends a connection, with the payload of another one.
func CloseFrame(payload []byte, masked bool) []byte { return control(opClose, payload, masked) }

// PongFrame answers a ping with its payload.
func PongFrame(payload []byte, masked bool) []byte { return control(opPong, payload, masked) }

// Reader puts text messages together from frames that pass by.
type Reader struct {
	// Limit bounds a message in bytes, as it comes and inflated.
	limit   int
	message func(text []byte)
	skipped func()

	buffer     []byte
	text       bool // a text message is under way
	compressed bool
	over       bool // beyond the limit
	deflate    *inflater
}

// NewReader makes a reader. extensions is the server's answer about them
// (Sec-WebSocket-Extensions). message is called with each text message, valid
// until it returns; skipped for each that cannot be read.
func NewReader(limit int, extensions string, message func([]byte), skipped func()) *Reader {
	r := &Reader{limit: limit, message: message, skipped: skipped}
	for extension := range strings.SplitSeq(strings.ToLower(extensions), ",") {
		name, parameters, _ := strings.Cut(strings.TrimSpace(extension), ";")
		if strings.TrimSpace(name) == "permessage-deflate" {
			r.deflate = &inflater{keep: !strings.Contains(parameters, "server_no_context_takeover"), limit: limit}
		}
	}
	return r
}

// Wants reports whether the frame's payload belongs to a text message that is to be read.
func (r *Reader) Wants(h *Header) bool {
	if h.Control() {
		return false
	}
	if h.Opcode != opContinuation {
		r.buffer, r.over = r.buffer[:0], false
		r.text, r.compressed = h.Opcode == opText, h.Compressed
	}
	// What is compressed with what came before must be read even if it is no text.
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

// Buffer is room for the payload of the frame that Wants said yes to.
func (r *Reader) Buffer(h *Header) []byte {
	from := len(r.buffer)
	need := from + int(h.Length)
	for cap(r.buffer) < need {
		r.buffer = append(r.buffer[:cap(r.buffer)], 0)
	}
	r.buffer = r.buffer[:need]
	return r.buffer[from:need]
}

// Filled takes up the frame whose payload was put into Buffer.
func (r *Reader) Filled(h *Header) {
	if !h.Fin {
		return
	}
	text := r.buffer
	if r.compressed {
		if r.deflate == nil {
			r.skipped()
			return
		}
		var err error
		if text, err = r.deflate.inflate(r.buffer); err != nil {
			r.fail()
			return
		}
	}
	if r.text {
		r.message(text)
	}
	if cap(r.buffer) > keepBuffer {
		r.buffer = nil
	}
}

// keepBuffer is what a socket keeps of its buffers between messages.
const keepBuffer = 64 << 10

// fail gives a message up. If later ones depend on it, they are given up too.
func (r *Reader) fail() {
	r.skipped()
	r.buffer = nil
	if r.compressed && r.deflate != nil && r.deflate.keep {
		r.deflate = nil
	}
}

// inflater undoes permessage-deflate.
type inflater struct {
	keep   bool // the window goes on from message to message
	limit  int
	window []byte
	out    bytes.Buffer
	reader io.ReadCloser
}

// tail ends a message's stream: the empty block that the sender left out, and a
// last one.
const tail = "\x00\x00\xff\xff\x01\x00\x00\xff\xff"

const windowSize = 32 << 10

var errTooLong = errors.New("the message is too long inflated")

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
		d.window = append(d.window, text...)
		if over := len(d.window) - windowSize; over > 0 {
			d.window = append(d.window[:0], d.window[over:]...)
		}
	}
	return text, nil
}
