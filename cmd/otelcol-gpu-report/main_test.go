// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// seen collects the Authorization headers that a server received.
type seen struct {
	mu     sync.Mutex
	tokens []string // guarded by mu
}

func (s *seen) add(r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens = append(s.tokens, r.Header.Get("Authorization"))
}

func (s *seen) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tokens
}

func TestTheTokenDoesNotFollowARedirectToAnotherHost(t *testing.T) {
	var elsewhere, store seen
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		elsewhere.add(r)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"status":"success","data":{"resultType":"vector","result":[]}}`))
	}))
	defer other.Close()
	first := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		store.add(r)
		to := other.URL + r.URL.Path
		if !strings.HasPrefix(r.URL.Path, "/moved/") { // within the store
			to = "/moved" + r.URL.Path
		}
		http.Redirect(w, r, to, http.StatusTemporaryRedirect)
	}))
	defer first.Close()
	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte("secret\n"), 0o600))
	err := run([]string{"-store", first.URL, "-token-file", file, "-out", filepath.Join(t.TempDir(), "report.html")})
	require.ErrorContains(t, err, "must not get the token of -token-file")
	require.ErrorContains(t, err, other.URL)
	assert.Equal(t, []string{"Bearer secret", "Bearer secret"}, store.all(), "a redirect within the store is followed")
	assert.Empty(t, elsewhere.all(), "the other host hears nothing")
}

func TestWithoutATokenARedirectIsFollowed(t *testing.T) {
	var elsewhere seen
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		elsewhere.add(r)
		w.WriteHeader(http.StatusTeapot)
	}))
	defer other.Close()
	first := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusTemporaryRedirect))
	defer first.Close()
	require.Error(t, run([]string{"-store", first.URL, "-out", "-"}))
	assert.NotEmpty(t, elsewhere.all())
	assert.NotContains(t, strings.Join(elsewhere.all(), ""), "Bearer")
}
