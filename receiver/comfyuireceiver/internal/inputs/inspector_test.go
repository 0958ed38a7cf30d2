// SPDX-License-Identifier: Apache-2.0

package inputs

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"io"
	"math/rand/v2"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/growth"
)

// counts counts what became of uploads, and lets each pass.
type counts struct {
	mu  sync.Mutex
	of  map[string]int
	out chan struct{}
}

func newCounts() *counts { return &counts{of: map[string]int{}, out: make(chan struct{}, 10000)} }

func (c *counts) ImageJudged(unjudged string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.of[unjudged]++
	c.out <- struct{}{}
}

func (c *counts) wait(t *testing.T, n int) map[string]int {
	t.Helper()
	for range n {
		select {
		case <-c.out:
		case <-time.After(time.Minute):
			t.Fatal("an upload was not counted")
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.of
}

func newTestInspector(t *testing.T, change func(*Settings)) (*Inspector, *counts) {
	t.Helper()
	s := Settings{Images: 100, UploadBytes: 1 << 20, AllBytes: 4 << 20, Colour: true}
	if change != nil {
		change(&s)
	}
	c := newCounts()
	i := NewInspector(s, c, time.Now)
	i.limits.Time = time.Minute // of a busy test machine
	t.Cleanup(i.Close)
	return i, c
}

// upload is a request as ComfyUI's page sends it.
func upload(t testing.TB, file []byte) *http.Request {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	part, err := w.CreateFormFile("image", "a.png")
	require.NoError(t, err)
	_, err = part.Write(file)
	require.NoError(t, err)
	require.NoError(t, w.WriteField("overwrite", "true"))
	require.NoError(t, w.Close())
	r := httptest.NewRequest(http.MethodPost, "/upload/image", &b)
	r.Header.Set("Content-Type", w.FormDataContentType())
	return r
}

// pass reads a copy as the server does.
func pass(t testing.TB, c *Copy) []byte {
	t.Helper()
	read, err := io.ReadAll(c)
	require.NoError(t, err)
	return read
}

func TestAnUploadIsJudgedUnderTheServersName(t *testing.T) {
	i, counted := newTestInspector(t, nil)
	r := upload(t, encodePNG(t, image.NewGray(image.Rect(0, 0, 30, 20))))
	sent, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	for n, body := range []io.Reader{bytes.NewReader(sent), iotest.OneByteReader(bytes.NewReader(sent)), iotest.DataErrReader(bytes.NewReader(sent))} {
		r.Body = io.NopCloser(body)
		r.ContentLength = []int64{int64(len(sent)), -1, -1}[n]
		c := i.Copy(r)
		assert.Equal(t, sent, pass(t, c))
		name := fmt.Sprintf("a (%d).png", n)
		assert.Equal(t, Facts{Unjudged: Unknown}, i.Find(NameOfInput(name)))
		c.Stored(name, "sub", "input")
		c.Drop()
		assert.Equal(t, n+1, counted.wait(t, 1)[""])
		f := i.Find(NameOfInput("sub/" + name))
		assert.Equal(t, Facts{Width: 30, Height: 20, Bytes: f.Bytes, Measured: true}, f)
	}
	assert.Zero(t, i.copied)
}

// TestAnAnswerBeforeTheEnd: a length that was announced is the end; without one, the end must be read.
func TestAnAnswerBeforeTheEnd(t *testing.T) {
	i, counted := newTestInspector(t, nil)
	r := upload(t, encodePNG(t, image.NewGray(image.Rect(0, 0, 30, 20))))
	for _, announced := range []bool{true, false} {
		length := r.ContentLength
		sent, err := io.ReadAll(r.Body)
		require.NoError(t, err)
		r.Body = io.NopCloser(bytes.NewReader(sent))
		if !announced {
			r.ContentLength = -1
		}
		c := i.Copy(r)
		_, err = io.ReadFull(c, make([]byte, length))
		require.NoError(t, err)
		c.Stored("a.png", "", "input")
		if announced {
			assert.Equal(t, 1, counted.wait(t, 1)[""])
		} else {
			assert.Equal(t, 1, counted.wait(t, 1)[Unread])
			assert.Equal(t, Facts{Unjudged: Unread}, i.Find(NameOfInput("a.png")))
		}
		c.Drop()
		r.Body = io.NopCloser(bytes.NewReader(sent))
	}
	assert.Zero(t, i.copied)
}

func TestWhatIsNotCopiedPassesAndIsCounted(t *testing.T) {
	file := bytes.Repeat([]byte("x"), 2<<20)
	for name, of := range map[string]struct {
		change  func(*Settings)
		request func(*http.Request)
		reason  string
	}{
		"too long":            {func(*Settings) {}, func(*http.Request) {}, Length},
		"too long, in chunks": {func(*Settings) {}, func(r *http.Request) { r.ContentLength = -1 }, Length},
		"others have it all":  {func(s *Settings) { s.UploadBytes, s.AllBytes = 8<<20, 1<<20 }, func(*http.Request) {}, Busy},
		"compressed":          {func(s *Settings) { s.UploadBytes = 8 << 20 }, func(r *http.Request) { r.Header.Set("Content-Encoding", "gzip") }, Unread},
		"not a form":          {func(s *Settings) { s.UploadBytes = 8 << 20 }, func(r *http.Request) { r.Header.Set("Content-Type", "image/png") }, Unread},
		"not an image":        {func(s *Settings) { s.UploadBytes = 8 << 20 }, func(*http.Request) {}, Format},
	} {
		t.Run(name, func(t *testing.T) {
			i, counted := newTestInspector(t, of.change)
			r := upload(t, file)
			of.request(r)
			c := i.Copy(r)
			defer c.Drop()
			assert.Greater(t, len(pass(t, c)), len(file))
			c.Stored("a.png", "", "input")
			assert.Equal(t, map[string]int{of.reason: 1}, counted.wait(t, 1))
			assert.Equal(t, of.reason, i.Find(NameOfInput("a.png")).Unjudged)
			assert.Zero(t, i.copied)
		})
	}
}

func TestAnUploadThatIsNotStoredLeavesNothing(t *testing.T) {
	i, _ := newTestInspector(t, nil)
	r := upload(t, make([]byte, 1000))
	failing := errors.New("the client has left")
	r.Body = io.NopCloser(io.MultiReader(io.LimitReader(r.Body, 500), iotest.ErrReader(failing)))
	c := i.Copy(r)
	_, err := io.ReadAll(c)
	require.ErrorIs(t, err, failing)
	assert.Positive(t, i.copied)
	c.Drop()
	assert.Zero(t, i.copied)
	c.Stored("a.png", "", "input")
	assert.Equal(t, Unknown, i.Find(NameOfInput("a.png")).Unjudged)
	n, _ := c.Read(make([]byte, 10))
	assert.Zero(t, n)
}

// TestANewUploadReplacesTheOldOne, also while that is not judged yet.
func TestANewUploadReplacesTheOldOne(t *testing.T) {
	i, counted := newTestInspector(t, nil)
	for width := range 5 {
		c := i.Copy(upload(t, encodePNG(t, image.NewGray(image.Rect(0, 0, width+1, 9)))))
		pass(t, c)
		c.Stored("a.png", "", "input")
	}
	counted.wait(t, 5)
	assert.Equal(t, 5, i.Find(NameOfInput("a.png")).Width)
}

// TestWhatWaitsIsBounded: many uploads at a time, and a shutdown among them.
func TestWhatWaitsIsBounded(t *testing.T) {
	i, counted := newTestInspector(t, func(s *Settings) { s.AllBytes, s.Images = 1<<30, 10 })
	scene := newScene(rand.New(rand.NewPCG(1, 1)), 300)
	file := encodeJPEG(t, scene.draw(300, 300), 90)
	const uploads = 3 * maxWaiting
	for n := range uploads {
		c := i.Copy(upload(t, file))
		pass(t, c)
		c.Stored(fmt.Sprintf("%d.jpg", n), "", "input")
		require.NoError(t, growth.Within(i.Bounds()))
	}
	i.Close()
	of := counted.wait(t, uploads)
	sum := 0
	for reason, n := range of {
		assert.Contains(t, []string{"", Busy, Stopping}, reason)
		sum += n
	}
	assert.Equal(t, uploads, sum)
	assert.Zero(t, i.copied)
	c := i.Copy(upload(t, file))
	pass(t, c)
	c.Stored("last.jpg", "", "input")
	counted.wait(t, 1)
	assert.Equal(t, Stopping, i.Find(NameOfInput("last.jpg")).Unjudged)
	assert.Zero(t, i.copied)
}

// TestCloseDoesNotWaitForABomb, however long it would be judged.
func TestCloseDoesNotWaitForABomb(t *testing.T) {
	for name, of := range map[string]struct {
		file   []byte
		reason []string
	}{
		"scans of nothing": {scansOf(18000, 512), []string{Format, Stopping}}, // refused at once
		"end-of-band runs": {endOfBandRuns(60000), []string{Stopping}},
		"a bit a block":    {oneBit(18000), []string{"", Stopping}},
	} {
		t.Run(name, func(t *testing.T) {
			i, counted := newTestInspector(t, func(s *Settings) { s.UploadBytes, s.AllBytes = 64<<20, 64<<20 })
			c := i.Copy(upload(t, of.file))
			pass(t, c)
			c.Stored("a.jpg", "", "input")
			require.Eventually(t, func() bool { // it is being judged, or has been
				i.mu.Lock()
				defer i.mu.Unlock()
				return len(i.waiting) == 0
			}, 10*time.Second, time.Millisecond)
			began := time.Now()
			i.Close()
			assert.Less(t, time.Since(began), time.Second)
			counted.wait(t, 1)
			assert.Contains(t, of.reason, i.Find(NameOfInput("a.jpg")).Unjudged)
		})
	}
}
