// SPDX-License-Identifier: Apache-2.0

package sockets

import (
	"strconv"
	"testing"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/growth"
)

func TestASocketCostsTheSameHoweverManyAreOpen(t *testing.T) {
	for name, id := range map[string]func(i int) string{
		"of a client of its own": strconv.Itoa,
		"without an id":          func(int) string { return "" },
		"of one client":          func(int) string { return "a" },
	} {
		t.Run(name, func(t *testing.T) {
			with := func(open int) func(int) {
				e := newEnv(1)
				e.MaxSockets, e.Observer = 10_000, named{}
				for i := range open {
					e.client(t, id(i))
				}
				return func(i int) {
					s := e.client(t, id(1e6+i))
					s.client = silentClient{}
					s.clientLeft(nil)
				}
			}
			growth.Constant(t, "a socket "+name, with(500), with(5_000))
		})
	}
}
