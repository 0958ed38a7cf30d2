// SPDX-License-Identifier: Apache-2.0

package page

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"mime"
	"net/http"
	"path"
	"strconv"
	"strings"

	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
)

// files are the scripts, the style and the icon, as they are written; vendor has the copies
// of what others wrote, with their licences.
//
//go:embed assets
var files embed.FS

// asset is a file of the page.
type asset struct {
	plain []byte
	// packed is plain, gzipped when it is first sent.
	packed once[[]byte]
}

// assetStore serves the files of the page. Their address has a version, so that browsers
// keep them until the collector is another.
type assetStore struct {
	version string
	byName  map[string]*asset
}

// maxAssets is more than there are files.
const maxAssets = 64

// loadAssets reads the embedded files. Those of others are served beside ours.
func loadAssets() *assetStore {
	s := &assetStore{byName: map[string]*asset{}}
	sum := sha256.New()
	for _, folder := range []string{"assets", "assets/vendor"} {
		entries, err := files.ReadDir(folder)
		if err != nil {
			panic(err) // embedded
		}
		for _, e := range entries {
			if e.IsDir() || contentType(e.Name()) == "" || len(s.byName) == maxAssets {
				continue
			}
			content, err := files.ReadFile(path.Join(folder, e.Name()))
			if err != nil {
				panic(err) // embedded
			}
			s.byName[e.Name()] = &asset{plain: content}
			_, _ = sum.Write(content)
		}
	}
	s.version = hex.EncodeToString(sum.Sum(nil))[:12]
	return s
}

// contentType is that of a served file; empty for others, such as licences.
func contentType(name string) string {
	switch path.Ext(name) {
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".css", ".svg":
		return mime.TypeByExtension(path.Ext(name))
	}
	return ""
}

// path is the address of a file.
func (s *assetStore) path(name string) string { return "/assets/" + s.version + "/" + name }

// serve sends a file. A page of an older collector gets today's files, uncached: it is
// loaded again as soon as its stream is back.
func (s *assetStore) serve(w http.ResponseWriter, r *http.Request) {
	a := s.byName[r.PathValue("name")]
	if a == nil {
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", contentType(r.PathValue("name")))
	h.Set("Vary", "Accept-Encoding")
	etag := `"` + s.version + `"`
	h.Set("ETag", etag)
	if r.PathValue("version") == s.version {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	} else {
		h.Set("Cache-Control", "no-cache")
	}
	if r.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	body := a.plain
	if acceptsGzip(r) {
		packed, err := a.packed.get(func() ([]byte, error) { return pack(a.plain) })
		if err == nil {
			h.Set("Content-Encoding", "gzip")
			body = packed
		}
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body)
}

func acceptsGzip(r *http.Request) bool {
	for part := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		coding, parameter, _ := strings.Cut(part, ";")
		if strings.TrimSpace(coding) == "gzip" {
			return strings.TrimSpace(parameter) != "q=0"
		}
	}
	return false
}

func pack(plain []byte) ([]byte, error) {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(plain); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// Bounds implements [bounds.Registered].
func (s *assetStore) Bounds() []bounds.Bound {
	packed := 0
	for _, a := range s.byName {
		packed += len(a.plain)
	}
	return []bounds.Bound{
		{Name: "page.assetStore.byName", Max: maxAssets, Size: len(s.byName)},
		// Bytes of all files; each is held gzipped, too, once it was sent.
		{Name: "page.asset.plain", Max: 1 << 20, Size: packed},
	}
}
