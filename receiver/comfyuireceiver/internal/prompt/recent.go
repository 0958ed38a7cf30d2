// SPDX-License-Identifier: Apache-2.0

package prompt

import "crypto/sha256"

// Recent holds the newest ids, up to a fixed number. Of a long id it holds a hash.
type Recent struct {
	max   int
	known map[string]bool
	ring  []string
	next  int // the place of the next id, that of the oldest one if the ring is full
}

// NewRecent holds max ids, beginning with those given, the oldest first.
func NewRecent(max int, ids ...string) *Recent {
	r := &Recent{max: max, known: map[string]bool{}}
	for _, id := range ids {
		r.Add(id)
	}
	return r
}

// Has reports whether an id is held.
func (r *Recent) Has(id string) bool { return r.known[recentKey(id)] }

// maxRecentKey bounds what is held of an id, in bytes.
const maxRecentKey = 64

func recentKey(id string) string {
	if len(id) <= maxRecentKey {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return string(sum[:])
}

// Len is the number of ids that are held.
func (r *Recent) Len() int { return len(r.ring) }

// Add adds an id unless it is held, and drops the oldest one beyond the limit.
func (r *Recent) Add(id string) {
	id = recentKey(id)
	if r.known[id] {
		return
	}
	r.known[id] = true
	if len(r.ring) < r.max {
		r.ring = append(r.ring, id)
		return
	}
	delete(r.known, r.ring[r.next])
	r.ring[r.next] = id
	r.next = (r.next + 1) % r.max
}
