// SPDX-License-Identifier: Apache-2.0

package inputs

import (
	"errors"
	"io"
	"net/http"
	"sync"
)

// Copy is the body of an upload, of which a copy is made while it passes.
type Copy struct {
	io.ReadCloser
	inspector   *Inspector
	contentType string
	// length is how many bytes the client announced; -1 if it did not.
	length int64

	// mu guards everything declared below: the server may answer before it has read everything.
	mu    sync.Mutex
	bytes []byte
	// held is what is reserved for it, in bytes.
	held  int
	whole bool
	// failed is why there is no copy; ended is true once copying has stopped.
	failed string
	ended  bool
}

// minCopy is how much room a copy has at first, in bytes.
const minCopy = 64 << 10

// Copy has the body of an upload copied while it passes. Call Drop in the end.
func (i *Inspector) Copy(r *http.Request) *Copy {
	c := &Copy{ReadCloser: r.Body, inspector: i, contentType: r.Header.Get("Content-Type"), length: r.ContentLength}
	switch {
	case r.Header.Get("Content-Encoding") != "":
		c.failed = Unread
	case r.ContentLength > int64(i.settings.UploadBytes):
		c.failed = Length
	}
	return c
}

// grow reserves room, or ends the copy. The caller holds the lock.
func (c *Copy) grow(size int) {
	if !c.inspector.reserve(size - c.held) {
		c.fail(Busy)
		return
	}
	c.held = size
	larger := make([]byte, len(c.bytes), size)
	copy(larger, c.bytes)
	c.bytes = larger
}

func (c *Copy) fail(reason string) {
	c.failed, c.bytes = reason, nil
	c.inspector.release(c.held)
	c.held = 0
}

// Read implements [io.Reader].
func (c *Copy) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended || c.failed != "" {
		return n, err
	}
	limit := c.inspector.settings.UploadBytes
	if len(c.bytes)+n > limit {
		c.fail(Length)
		return n, err
	}
	if need := len(c.bytes) + n; need > cap(c.bytes) {
		if c.length >= int64(need) {
			limit = int(c.length)
		}
		c.grow(min(max(minCopy, 2*cap(c.bytes), need), limit))
	}
	if c.failed == "" {
		c.bytes = append(c.bytes, p[:n]...)
		// The server may answer before the end is read.
		c.whole = errors.Is(err, io.EOF) || int64(len(c.bytes)) == c.length
	}
	return n, err
}

// Stored has the upload judged, which the server stored under a name.
func (c *Copy) Stored(name, subfolder, folder string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return
	}
	c.ended = true
	id := nameOf(name, subfolder, folder)
	switch {
	case c.failed != "":
	case !c.whole || id == "":
		c.fail(Unread)
	default:
		held := c.held
		c.held = 0
		c.inspector.add(id, job{form: c.bytes, contentType: c.contentType, held: held})
		return
	}
	c.inspector.unjudged(id, c.failed)
}

// Drop ends a copy that was not stored.
func (c *Copy) Drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	c.fail(Unread)
}
