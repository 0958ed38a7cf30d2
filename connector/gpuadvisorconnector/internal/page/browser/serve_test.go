// SPDX-License-Identifier: Apache-2.0

package browser

import (
	"flag"
	"net/http"
	"testing"
)

var serve = flag.String("serve", "", "host:port, to serve a scene there until the test's time limit")

var serveScene = flag.String("scene", "8", "the scene that -serve shows")

// TestServe shows a scene to whoever changes the page: go test -run TestServe -serve 127.0.0.1:8890.
func TestServe(t *testing.T) {
	if *serve == "" {
		t.Skip("-serve is not set")
	}
	for _, s := range scenes {
		if s.name == *serveScene {
			p := newPage(newFixture(t, s))
			t.Log(http.ListenAndServe(*serve, p))
			return
		}
	}
	t.Fatalf("there is no scene %q", *serveScene)
}
