// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
)

// budget bounds the memory of the bodies that are read at a time, in bytes.
type budget struct {
	max  int64
	used atomic.Int64
}

func (b *budget) reserve(n int) bool {
	if b.used.Add(int64(n)) > b.max {
		b.used.Add(int64(-n))
		return false
	}
	return true
}

func (b *budget) free(n int) { b.used.Add(int64(-n)) }

// heldBody is a request's body of which the beginning is held until release.
type heldBody struct {
	bytes []byte
	// whole is false if the body exceeds its limit, or the budget.
	whole  bool
	budget *budget
	held   int
}

// minBody is how much is read of a body at first.
const minBody = 16 << 10

// holdBody reads a body as far as its limit and the budget permit, and puts it back. After
// an error the body cannot be relayed. Defer the release.
func holdBody(r *http.Request, limit int, of *budget) (*heldBody, error) {
	h := &heldBody{budget: of}
	for len(h.bytes) < cap(h.bytes) || h.grow(r.ContentLength, limit) {
		n, err := r.Body.Read(h.bytes[len(h.bytes):cap(h.bytes)])
		h.bytes = h.bytes[:len(h.bytes)+n]
		if errors.Is(err, io.EOF) {
			h.whole = len(h.bytes) <= limit
			break
		}
		if err != nil {
			return h, err
		}
	}
	r.Body = restored{io.MultiReader(bytes.NewReader(h.bytes), r.Body), r.Body}
	return h, nil
}

// grow makes room for more of the body: twice as much, but no more than it can need.
func (h *heldBody) grow(length int64, limit int) bool {
	size := max(minBody, 2*cap(h.bytes))
	if length >= 0 && int64(size) > length+1 {
		size = int(max(length+1, int64(cap(h.bytes)+1))) // the last byte is for the end of the body
	}
	size = min(size, limit+1)
	if size <= cap(h.bytes) || !h.budget.reserve(size-cap(h.bytes)) {
		return false
	}
	h.held += size - cap(h.bytes)
	larger := make([]byte, len(h.bytes), size)
	copy(larger, h.bytes)
	h.bytes = larger
	return true
}

// release returns what is held to the budget.
func (h *heldBody) release() { h.budget.free(h.held) }

// restored is a body of which a part has been read and put back.
type restored struct {
	io.Reader
	io.Closer
}
