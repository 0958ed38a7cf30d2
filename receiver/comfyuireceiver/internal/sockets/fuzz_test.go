// SPDX-License-Identifier: Apache-2.0

package sockets

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// FuzzStates drives the state machine with what may happen to sockets, in any order: the
// counts are right, an id has one own socket at most and only if it had none before, nothing
// is retained beyond the limit, and nothing is left when all clients and prompts have gone.
func FuzzStates(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9})
	f.Add([]byte{8, 9, 18, 0, 1, 12, 5, 6, 3, 3, 9})
	f.Add([]byte{20, 20, 31, 42, 53, 64, 75, 86, 97, 108, 119, 130})
	f.Fuzz(func(t *testing.T, script []byte) {
		const limit = 3
		e := newEnv(limit)
		e.Observer = named{}
		var all []*socket
		releases := map[string][]func(){}
		for i, b := range script {
			id := []string{"", "a", "b", "c"}[b>>3&3]
			var s *socket
			if len(all) > 0 {
				s = all[(int(b>>3)+i)%len(all)]
			}
			switch b & 7 {
			case 0: // a client arrives
				e.mu.Lock()
				c := e.record(id)
				if id == "" || c.opening == nil { // else it waits
					s := e.add(c, connecting)
					s.server, s.client = &silentServer{}, silentClient{}
					all = append(all, s)
				} else {
					e.deleteIfUnused(c)
				}
				e.mu.Unlock()
			case 1: // the server accepts it, or fails
				if s != nil && s.state == connecting {
					if b&0x80 == 0 {
						require.True(t, e.advance(s, connected, connecting))
						s.unnamed = s.id() == ""
					} else {
						s.release()
					}
				}
			case 2: // the server names it
				if s != nil && s.state == connected && s.unnamed {
					s.Text([]byte{"xyz"[b>>3%3]})
				}
			case 3: // the client leaves
				if s != nil && s.state == connected {
					s.clientLeft(nil)
				}
			case 4: // a request for a prompt begins
				if id != "" && len(releases[id]) < 4 {
					release, own := e.expect(id)
					if own != nil {
						require.Len(t, own.record.sockets, 1)
						all = append(all, own)
					}
					releases[id] = append(releases[id], release)
				}
			case 5: // it ends, with an open prompt or refused
				if n := len(releases[id]); n > 0 {
					if b&0x80 == 0 {
						e.Refused(id)
					}
					releases[id][n-1]()
					releases[id] = releases[id][:n-1]
				}
				e.open = int(b >> 5 & 1)
			case 6: // an own socket is open, or has failed
				if s != nil && s.state == opening {
					if b&0x80 == 0 {
						require.True(t, e.advance(s, retained, opening))
					} else {
						s.release()
					}
				}
			case 7: // time passes
				e.now = e.now.Add(time.Duration(b) * 100 * time.Millisecond)
				e.Sweep()
			}
			var count [retained + 1]int
			for _, s := range all {
				count[s.state]++
			}
			for _, in := range []state{connecting, opening, connected, retained} {
				require.Equal(t, count[in], e.count[in], "state %d after %v", in, script[:i+1])
			}
			_, without := e.Counts()
			require.LessOrEqual(t, without, limit)
			require.Len(t, e.retained, count[retained])
		}
		e.open = 0
		for _, s := range all {
			switch s.state {
			case connecting, opening:
				s.release()
			case connected:
				s.clientLeft(nil)
			}
		}
		for _, list := range releases {
			for _, release := range list {
				release()
			}
		}
		for range 3 {
			e.now = e.now.Add(time.Hour)
			e.Sweep()
		}
		require.Empty(t, e.clients)
		require.Empty(t, e.retained)
	})
}
