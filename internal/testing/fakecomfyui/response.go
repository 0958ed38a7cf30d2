// SPDX-License-Identifier: Apache-2.0

package fakecomfyui

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// response is an answer that is sent as a whole, with its length.
type response struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (r *response) Header() http.Header { return r.header }

// WriteHeader implements http.ResponseWriter.
func (r *response) WriteHeader(status int) { r.status = status }

// Write implements http.ResponseWriter.
func (r *response) Write(b []byte) (int, error) { return r.body.Write(b) }

// send sends the answer, compressed if the server does that, if there is something to
// compress, and if the client offers gzip. A client that offers deflate, too, gets deflate:
// so does aiohttp.
func (r *response) send(w http.ResponseWriter, request *http.Request, compress bool) {
	offered := strings.ToLower(request.Header.Get("Accept-Encoding"))
	kind, _, _ := strings.Cut(r.header.Get("Content-Type"), ";")
	body := r.body.Bytes()
	if compress && len(body) > 0 && strings.Contains(offered, "gzip") && (kind == "application/json" || kind == "text/plain") {
		var small bytes.Buffer
		var into io.WriteCloser
		if strings.Contains(offered, "deflate") {
			r.header.Set("Content-Encoding", "deflate")
			into = zlib.NewWriter(&small)
		} else {
			r.header.Set("Content-Encoding", "gzip")
			into = gzip.NewWriter(&small)
		}
		_, _ = into.Write(body)
		_ = into.Close()
		body = small.Bytes()
	}
	r.header.Set("Content-Length", strconv.Itoa(len(body)))
	if r.status != 0 {
		w.WriteHeader(r.status)
	}
	_, _ = w.Write(body)
}

// foreign reports whether a request comes from another site's page. The real server refuses
// it: if the browser says so, and on loopback if Origin is not Host.
func (s *Server) foreign(r *http.Request) bool {
	if s.options.newer() && r.Header.Get("Sec-Fetch-Site") == "cross-site" {
		return true
	}
	origin := r.Header.Get("Origin")
	if origin == "" || !loopback(r.Host) {
		return false
	}
	from, err := url.Parse(origin)
	return err == nil && from.Host != "" && !strings.EqualFold(from.Host, r.Host)
}

func loopback(host string) bool {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = host
	}
	ip := net.ParseIP(name)
	return name == "localhost" || ip != nil && ip.IsLoopback()
}
