// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestARushIsCausedByTheCollectorAlone: a page that the user visits could otherwise cause one.
func TestARushIsCausedByTheCollectorAlone(t *testing.T) {
	r := &rushes{}
	require.NoError(t, r.listen(t.Context()))
	t.Cleanup(func() { require.NoError(t, r.server.Close()) })
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	post := func(host string, headers ...string) int {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url, http.NoBody)
		require.NoError(t, err)
		if host != "" {
			request.Host = host
		}
		for i := 0; i+1 < len(headers); i += 2 {
			request.Header.Set(headers[i], headers[i+1])
		}
		response, err := transport.RoundTrip(request)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		return response.StatusCode
	}
	assert.Equal(t, http.StatusForbidden, post("", "Origin", "https://example.com"))
	assert.Equal(t, http.StatusForbidden, post("", "Origin", "null"))
	assert.Equal(t, http.StatusForbidden, post("", "Sec-Fetch-Site", "cross-site"))
	assert.Equal(t, http.StatusForbidden, post("rebound.example.com", "Origin", "http://rebound.example.com"))
	asked := make(chan bool, 1)
	go func() {
		select {
		case <-r.asked:
			asked <- true
		case <-time.After(10 * time.Second):
			asked <- false
		}
	}()
	// One second at most passes until the goroutine above waits.
	assert.Equal(t, http.StatusAccepted, post(""))
	assert.True(t, <-asked)
}
