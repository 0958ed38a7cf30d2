// SPDX-License-Identifier: Apache-2.0

package rate

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is moved by tests.
type clock struct{ time.Time }

func (c *clock) now() time.Time { return c.Time }

func from(address string, forwarded ...string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/prompt", nil)
	r.RemoteAddr = address
	for _, f := range forwarded {
		r.Header.Add("X-Forwarded-For", f)
	}
	return r
}

func TestClientMaySendABurstAndThenSoManyAMinute(t *testing.T) {
	c := &clock{time.Unix(1_800_000_000, 0)}
	l := New([]Limit{{PerMinute: 30, Burst: 3}}, nil, c.now)
	ask := func(address string) time.Duration {
		after, ok := l.Allow(from(address), "people")
		assert.Equal(t, after == 0, ok)
		return after
	}
	for range 3 {
		assert.Zero(t, ask("192.0.2.1:1000"))
	}
	for range 5 { // those that are refused do not count
		assert.Equal(t, 2*time.Second, ask("192.0.2.1:1001"), "another port is the same client")
	}
	assert.Zero(t, ask("192.0.2.2:1000"), "another client")
	c.Time = c.Add(500 * time.Millisecond)
	assert.Equal(t, 1500*time.Millisecond, ask("192.0.2.1:1000"))
	c.Time = c.Add(1500 * time.Millisecond)
	assert.Zero(t, ask("192.0.2.1:1000"), "who comes again when it may is admitted")
	assert.Equal(t, 2*time.Second, ask("192.0.2.1:1000"))
}

// TestLimitsOfClasses: each counts its own class, and a prompt that one refuses counts in none.
func TestLimitsOfClasses(t *testing.T) {
	c := &clock{time.Unix(1_800_000_000, 0)}
	l := New([]Limit{{PerMinute: 60, Burst: 4}, {TaskClass: "batch", PerMinute: 1, Burst: 1}}, nil, c.now)
	ask := func(class string) time.Duration { after, _ := l.Allow(from("192.0.2.1:1"), class); return after }
	assert.Zero(t, ask("batch"))
	for range 10 {
		assert.Equal(t, time.Minute, ask("batch"))
	}
	for range 3 {
		assert.Zero(t, ask("people"))
	}
	assert.Equal(t, time.Second, ask("people"))
	assert.Equal(t, time.Minute, ask("batch"), "the longer one")
}

func TestClientsByHeader(t *testing.T) {
	c := &clock{time.Unix(1_800_000_000, 0)}
	l := New([]Limit{{Header: "X-Tenant", PerMinute: 1, Burst: 1}}, nil, c.now)
	ask := func(address, tenant string) bool {
		r := from(address)
		if tenant != "" {
			r.Header.Set("X-Tenant", tenant)
		}
		_, ok := l.Allow(r, "")
		return ok
	}
	assert.True(t, ask("192.0.2.1:1", "a"))
	assert.False(t, ask("192.0.2.2:1", "a"), "another address of the same tenant")
	assert.True(t, ask("192.0.2.1:1", "b"))
	assert.True(t, ask("192.0.2.1:1", ""), "without the header, the address counts")
	assert.False(t, ask("192.0.2.1:1", ""))
	assert.True(t, ask("192.0.2.3:1", "192.0.2.1"), "a tenant is not an address")
}

// TestForgedForwardingHeadersDoNotCount: only a trusted proxy's, and only as far as trusted
// proxies wrote it.
func TestForgedForwardingHeadersDoNotCount(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8"), netip.MustParsePrefix("127.0.0.1/32")}
	for _, c := range []struct {
		request *http.Request
		want    string
	}{
		{from("192.0.2.1:5", "198.51.100.1"), "192.0.2.1"},
		{from("10.0.0.1:5", "198.51.100.1"), "198.51.100.1"},
		{from("10.0.0.1:5", "1.1.1.1, 198.51.100.1"), "198.51.100.1"},
		{from("10.0.0.1:5", "1.1.1.1, 198.51.100.1, 10.9.9.9"), "198.51.100.1"},
		{from("10.0.0.1:5", "1.1.1.1", "198.51.100.1"), "198.51.100.1"},
		{from("10.0.0.1:5", "198.51.100.1", "fd00::7"), "198.51.100.1"},
		{from("10.0.0.1:5", "10.0.0.2, 10.0.0.3"), "10.0.0.2"},
		{from("10.0.0.1:5"), "10.0.0.1"},
		{from("10.0.0.1:5", ""), "10.0.0.1"},
		{from("10.0.0.1:5", "198.51.100.1, not an address"), "10.0.0.1"},
		{from("10.0.0.1:5", "198.51.100.1:8080"), "198.51.100.1"},
		{from("[::ffff:10.0.0.1]:5", "::ffff:198.51.100.1"), "198.51.100.1"},
		{from("[2001:db8:1:2:3:4:5:6]:5"), "2001:db8:1:2::/64"},
		{from("[2001:db8:1:2:ffff::1]:5"), "2001:db8:1:2::/64"},
		{from("[fe80::1%eth0]:5"), "fe80::/64"},
		{from("10.0.0.1:5", "[2001:db8::1]"), "2001:db8::/64"},
		{from("10.0.0.1:5", "[2001:db8::1]:443"), "2001:db8::/64"},
		{from("pipe"), "pipe"},
	} {
		assert.Equal(t, c.want, Address(c.request, trusted), "%s %v", c.request.RemoteAddr, c.request.Header)
	}
}

// TestClientsAreBounded: the one that was not seen for the longest time makes room.
func TestClientsAreBounded(t *testing.T) {
	c := &clock{time.Unix(1_800_000_000, 0)}
	l := New([]Limit{{PerMinute: 1, Burst: 1}}, nil, c.now)
	for i := range maxClients + 100 {
		_, ok := l.Allow(from(fmt.Sprintf("10.%d.%d.%d:1", i>>16, i>>8&255, i&255)), "")
		assert.True(t, ok)
	}
	_, ok := l.Allow(from(fmt.Sprintf("10.0.%d.%d:1", maxClients>>8, maxClients&255)), "")
	assert.False(t, ok)
	for _, b := range l.Bounds() {
		assert.Equal(t, maxClients, b.Size, b.Name)
		assert.Equal(t, maxClients, b.Max, b.Name)
	}
}
