// SPDX-License-Identifier: Apache-2.0

package browser

import (
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/page"
)

// stage is an address at which a tab is shown one page after another. From the second page on the
// browser has the scripts and styles in its cache, which takes half of the time of a new address.
type stage struct {
	address string
	page    atomic.Pointer[page.Page]
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.page.Load().ServeHTTP(w, r) }))
	s.address = server.URL
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	return s
}

// change shows a tab another page. What the tab shows until then asks for nothing any more: the answer
// would be the other page's.
func (s *stage) change(p *tab, to *page.Page, path string) {
	p.t.Helper()
	read[bool](p, `(window.fetch = () => new Promise(() => {}), true)`)
	s.page.Store(to)
	p.open(s.address + path)
}

// cast has a page of each scene whose figures stay, for tests that only look at them.
type cast struct {
	t *testing.T

	mu    sync.Mutex
	pages map[string]*page.Page
}

// of returns the page of a scene, which is closed when the test ends.
func (c *cast) of(scene string) *page.Page {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pages[scene] == nil {
		// A stream that is quick would draw each page again and again.
		live := page.New(newFixture(c.t, sceneOf(scene)), page.Settings{Endpoint: "127.0.0.1:0", Interval: 5 * time.Second})
		c.t.Cleanup(live.Close)
		c.pages[scene] = live
	}
	return c.pages[scene]
}
