// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestShutdownWaitsForOpenRequestsUpToDrainTimeout shuts the receiver down while an image
// is on its way: it arrives, unless it takes longer than drain_timeout.
func TestShutdownWaitsForOpenRequestsUpToDrainTimeout(t *testing.T) {
	for name, test := range map[string]struct {
		drain   time.Duration
		arrives bool
	}{"long enough": {time.Minute, true}, "too short": {50 * time.Millisecond, false}} {
		t.Run(name, func(t *testing.T) {
			asked, release := make(chan struct{}), make(chan struct{})
			var once sync.Once
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/view" {
					w.WriteHeader(http.StatusNotFound)
					return
				}
				once.Do(func() { close(asked) })
				select {
				case <-release:
				case <-r.Context().Done():
				}
				_, _ = io.WriteString(w, "image")
			}))
			defer server.Close()
			rig := newRig(t, server.URL, func(c *Config) { c.DrainTimeout = test.drain })
			type got struct {
				text string
				err  error
			}
			answer := make(chan got, 1)
			transport := &http.Transport{}
			defer transport.CloseIdleConnections()
			go func() {
				response, err := (&http.Client{Transport: transport}).Get(rig.base + "/view?filename=a.png")
				if err != nil {
					answer <- got{err: err}
					return
				}
				defer response.Body.Close()
				text, err := io.ReadAll(response.Body)
				answer <- got{string(text), err}
			}()
			<-asked
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				rig.stopNow()
			}()
			if test.arrives {
				// The listener is closed first; from then on shutdown waits for the request.
				require.Eventually(t, func() bool {
					_, err := http.Get(rig.base + "/queue")
					return err != nil
				}, 10*time.Second, time.Millisecond)
				select {
				case <-ended:
					t.Fatal("shutdown did not wait")
				default:
				}
				close(release)
				a := <-answer
				require.NoError(t, a.err)
				assert.Equal(t, "image", a.text)
				<-ended
				return
			}
			<-ended
			a := <-answer
			assert.True(t, a.err != nil || a.text != "image", "it was cut off")
			close(release)
		})
	}
}

// TestShutdownIsShortThoughAllDataAreRefused: what the next consumer refuses for ever must
// not delay shutdown.
func TestShutdownIsShortThoughAllDataAreRefused(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadRequest) // each request ends its prompt
	}))
	defer server.Close()
	rig := newRigTo(t, server.URL, &blocker{err: io.ErrUnexpectedEOF}, nil)
	for range 50 {
		response, err := http.Post(rig.base+"/prompt", "application/json", strings.NewReader(`{"prompt": {}}`))
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
	}
	begin := time.Now()
	rig.stopNow()
	assert.Less(t, time.Since(begin), time.Second)
	assert.Equal(t, map[string]int64{"traces": 50}, counted(t, rig.telemetry, "dropped"))
}
