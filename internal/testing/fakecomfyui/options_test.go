// SPDX-License-Identifier: Apache-2.0

package fakecomfyui

import (
	"compress/gzip"
	"compress/zlib"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// ask asks a server without a network, and returns the answer.
func ask(t *testing.T, s *Server, method, path, body string, header ...string) *http.Response {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, "http://127.0.0.1:8188"+path, strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w.Result()
}

func TestRequestsOfOtherSitesAreRefused(t *testing.T) {
	for _, version := range Versions {
		s := NewServerWith(NewTimedWork(), Options{Version: version})
		crossSite := map[Version]int{Older: http.StatusOK, Newer: http.StatusForbidden}[version]
		for _, c := range []struct {
			name, value string
			status      int
		}{
			{"Sec-Fetch-Site", "cross-site", crossSite},
			{"Sec-Fetch-Site", "same-origin", http.StatusOK},
			{"Origin", "http://127.0.0.1:8188", http.StatusOK},
			{"Origin", "http://127.0.0.1:8189", http.StatusForbidden},
			{"Origin", "http://evil.example", http.StatusForbidden},
		} {
			response := ask(t, s, http.MethodGet, "/prompt", "", c.name, c.value)
			assert.Equal(t, c.status, response.StatusCode, "%s: %s: %s", version, c.name, c.value)
			require.NoError(t, response.Body.Close())
		}
	}
}

func TestAnswersAreCompressedForThoseWhoOfferGzip(t *testing.T) {
	s := NewServerWith(NewTimedWork(), Options{Compress: true})
	for offered, encoding := range map[string]string{"": "", "deflate": "", "br": "", "gzip": "gzip", "gzip, deflate, br": "deflate"} {
		response := ask(t, s, http.MethodGet, "/prompt", "", "Accept-Encoding", offered)
		require.Equal(t, encoding, response.Header.Get("Content-Encoding"), offered)
		body := io.Reader(response.Body)
		var err error
		switch encoding {
		case "gzip":
			body, err = gzip.NewReader(body)
		case "deflate":
			body, err = zlib.NewReader(body)
		}
		require.NoError(t, err)
		text, err := io.ReadAll(body)
		require.NoError(t, err)
		assert.JSONEq(t, `{"exec_info": {"queue_remaining": 0}}`, string(text))
		require.NoError(t, response.Body.Close())
	}
	response := ask(t, s, http.MethodGet, "/view", "", "Accept-Encoding", "gzip")
	assert.Empty(t, response.Header.Get("Content-Encoding"), "an image stays as it is")
	require.NoError(t, response.Body.Close())
}

func TestSeveralDevicesAreListedWithTheirIndex(t *testing.T) {
	response := ask(t, NewServerWith(NewTimedWork(), Options{Version: Newer, Devices: 3}), http.MethodGet, "/system_stats", "")
	var stats struct {
		System struct {
			ComfyUI string `json:"comfyui_version"`
		}
		Devices []struct{ Index int }
	}
	require.NoError(t, json.NewDecoder(response.Body).Decode(&stats))
	require.NoError(t, response.Body.Close())
	assert.Equal(t, "0.33.0", stats.System.ComfyUI)
	require.Len(t, stats.Devices, 3)
	for i, d := range stats.Devices {
		assert.Equal(t, i, d.Index)
	}
}

func TestTheQueueShowsASixthSlotWhereItIsAskedFor(t *testing.T) {
	for slots, sixth := range map[int]bool{5: false, 6: true} {
		s := NewServerWith(NewTimedWork(), Options{Version: Newer, SixthSlot: sixth})
		response := ask(t, s, http.MethodPost, "/prompt", `{"prompt": {"1": {"class_type": "LoadImage", "inputs": {"image": "people.png"}},
			"2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}}}}`)
		require.Equal(t, http.StatusOK, response.StatusCode)
		require.NoError(t, response.Body.Close())
		response = ask(t, s, http.MethodGet, "/queue", "")
		var queue struct {
			Pending [][]any `json:"queue_pending"`
		}
		require.NoError(t, json.NewDecoder(response.Body).Decode(&queue))
		require.NoError(t, response.Body.Close())
		require.Len(t, queue.Pending, 1)
		require.Len(t, queue.Pending[0], slots)
		assert.Contains(t, queue.Pending[0][3], "create_time")
	}
}
