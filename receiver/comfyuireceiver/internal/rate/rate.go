// SPDX-License-Identifier: Apache-2.0

// Package rate limits how many prompts a client may send. A client is who sends from an address,
// or with a value of a header that a gateway sets; what it may choose freely, as its client id,
// does not count.
package rate

import (
	"hash/maphash"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
	"github.com/otelcol-gpu/otelcol-gpu/internal/lru"
)

// Limit is one limit.
type Limit struct {
	// TaskClass is the class of the prompts that are limited; empty for all.
	TaskClass string
	// Header names clients; empty for their addresses, as for requests without it.
	Header string
	// PerMinute prompts of a client are allowed, and Burst at a time.
	PerMinute float64
	Burst     int
}

// Limits are the limits of one receiver. Its methods may be called from any goroutine.
type Limits struct {
	limits  []Limit
	trusted []netip.Prefix
	now     func() time.Time
	seed    maphash.Seed

	mu sync.Mutex
	// clients is guarded by mu.
	clients *lru.Cache[client, *rate.Limiter]
}

// client is one of a limit's.
type client struct {
	limit  int
	header bool
	// hash is of its address or its header's value.
	hash uint64
}

// maxClients bounds the clients that are distinguished. The one that was not seen for the longest
// time makes room.
const maxClients = 8192

// New makes limits. Trusted are the proxies whose X-Forwarded-For counts.
func New(limits []Limit, trusted []netip.Prefix, now func() time.Time) *Limits {
	return &Limits{limits: limits, trusted: trusted, now: now, seed: maphash.MakeSeed(), clients: lru.New[client, *rate.Limiter](maxClients)}
}

// Allow counts a prompt of a class. It returns after what time the client may send one again, if
// it has sent too many; such a prompt does not count.
func (l *Limits) Allow(r *http.Request, class string) (retryAfter time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	counted := make([]*rate.Reservation, 0, len(l.limits))
	for i := range l.limits {
		limit := &l.limits[i]
		if limit.TaskClass != "" && limit.TaskClass != class {
			continue
		}
		limiter := l.clients.FindOrAdd(l.client(i, r))
		if *limiter == nil {
			*limiter = rate.NewLimiter(rate.Limit(limit.PerMinute/60), limit.Burst)
		}
		reservation := (*limiter).ReserveN(now, 1)
		counted = append(counted, reservation)
		retryAfter = max(retryAfter, reservation.DelayFrom(now))
	}
	if retryAfter > 0 {
		for _, reservation := range counted {
			reservation.CancelAt(now)
		}
	}
	return retryAfter, retryAfter == 0
}

// client is who sent a request, for a limit.
func (l *Limits) client(limit int, r *http.Request) client {
	if name := l.limits[limit].Header; name != "" {
		if value := r.Header.Get(name); value != "" {
			return client{limit, true, maphash.String(l.seed, value)}
		}
	}
	return client{limit, false, maphash.String(l.seed, Address(r, l.trusted))}
}

// hostBits are those of an IPv6 address that its host chooses.
const hostBits = 64

// Address is where a request came from: the last address of X-Forwarded-For that is not a trusted
// proxy's, if a trusted proxy sent it; else the peer's. Of an IPv6 address only the network
// counts.
func Address(r *http.Request, trusted []netip.Prefix) string {
	peer, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		peer = r.RemoteAddr
	}
	address, err := netip.ParseAddr(peer)
	if err != nil {
		return peer
	}
	forwarded := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(forwarded) - 1; i >= 0 && isTrusted(address, trusted); i-- {
		before, err := parse(strings.TrimSpace(forwarded[i]))
		if err != nil {
			break
		}
		address = before
	}
	address = address.Unmap().WithZone("")
	if address.Is6() {
		if network, err := address.Prefix(128 - hostBits); err == nil {
			return network.String()
		}
	}
	return address.String()
}

// parse reads an address, with or without a port.
func parse(text string) (netip.Addr, error) {
	if withPort, err := netip.ParseAddrPort(text); err == nil {
		return withPort.Addr(), nil
	}
	return netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(text, "["), "]"))
}

func isTrusted(address netip.Addr, trusted []netip.Prefix) bool {
	address = address.Unmap().WithZone("")
	for _, network := range trusted {
		if network.Contains(address) {
			return true
		}
	}
	return false
}

// Bounds implements [bounds.Registered].
func (l *Limits) Bounds() []bounds.Bound {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.clients.Bounds()
}
