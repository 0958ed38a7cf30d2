// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"container/list"
	"crypto/rand"
	"encoding/binary"
	"time"
)

// claims are those that are not settled, by their numbers. Whoever has a claim's number may end it, and
// over HTTP callers do: numbers are random, so that no caller can guess another's.
type claims struct {
	byNumber map[uint64]*list.Element
	byAge    *list.List // of *job, the oldest first
	// random is where a number is made.
	random [8]byte
}

const (
	// maxClaims bounds the claims that are not settled.
	maxClaims = 4096
	// claimBits is the length of their numbers: JavaScript rounds longer ones in JSON.
	claimBits = 53
)

func newClaims() claims {
	return claims{byNumber: map[uint64]*list.Element{}, byAge: list.New()}
}

// add adds that of a prompt, which expires at a time, later than those before; it returns false if there
// are too many.
func (c *claims) add(j *job, expires time.Time) bool {
	if len(c.byNumber) >= maxClaims {
		return false
	}
	j.claim, j.expires = c.number(), expires
	c.byNumber[j.claim] = c.byAge.PushBack(j)
	return true
}

// number is one that no other claim has.
func (c *claims) number() uint64 {
	for {
		_, _ = rand.Read(c.random[:]) // never fails
		if n := binary.NativeEndian.Uint64(c.random[:]) >> (64 - claimBits); n != 0 && c.byNumber[n] == nil {
			return n
		}
	}
}

// find is the prompt with a claim; nil if there is none.
func (c *claims) find(number uint64) *job {
	if e := c.byNumber[number]; e != nil {
		return e.Value.(*job)
	}
	return nil
}

// oldest is the prompt whose claim expires first; nil if there is none.
func (c *claims) oldest() *job {
	if e := c.byAge.Front(); e != nil {
		return e.Value.(*job)
	}
	return nil
}

// end ends a prompt's claim, if it has one.
func (c *claims) end(j *job) {
	if e := c.byNumber[j.claim]; e != nil {
		c.byAge.Remove(e)
		delete(c.byNumber, j.claim)
	}
	j.claim = 0
}
