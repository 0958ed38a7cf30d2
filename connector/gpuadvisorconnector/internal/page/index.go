// SPDX-License-Identifier: Apache-2.0

package page

import (
	"bytes"
	"embed"
	"html/template"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
)

//go:embed templates
var templateFiles embed.FS

// shell is what the templates of the page and of the sign-in have in common.
type shell struct {
	Language texts.Language
	assets   *assetStore
}

// Asset is the address of a file.
func (s shell) Asset(name string) string { return s.assets.path(name) }

// Version is that of the files.
func (s shell) Version() string { return s.assets.version }

// T is a text with the values of its placeholders: name, value, name, value.
func (s shell) T(key string, pairs ...any) string {
	args := texts.Args{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if name, ok := pairs[i].(string); ok {
			args[name] = pairs[i+1]
		}
	}
	return texts.Message{Key: key, Args: args}.In(s.Language)
}

// GiB is a size with its unit.
func (s shell) GiB(bytes int64) string {
	return s.T("page.unit.gib", "v", threeDigits(float64(bytes)/(1<<30)))
}

// Seconds is a duration with its unit.
func (s shell) Seconds(v float64) string { return s.T("page.unit.s", "v", threeDigits(v)) }

// Percent is a share with its unit.
func (s shell) Percent(v *float64) string {
	if v == nil {
		return s.T("page.none")
	}
	return s.T("page.unit.percent", "v", strconv.Itoa(int(math.Round(*v*100))))
}

// Round is a number without decimals.
func (s shell) Round(v float64) string { return strconv.Itoa(int(math.Round(v))) }

// threeDigits is a number with three significant digits, at most two of them decimals.
func threeDigits(v float64) string {
	switch size := math.Abs(v); {
	case size >= 99.95:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case size >= 9.995:
		return strconv.FormatFloat(v, 'f', 1, 64)
	default:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
}

// document is what the page's template shows: the state for the scripts, and without them
// the verdict, the GPUs and, at a prompt's address, its sentence.
type document struct {
	shell
	SignedIn bool
	Texts    map[string]any
	State    view.State
	Prompt   *view.Detail
}

// render writes a page made of a template.
func (p *Page) render(w http.ResponseWriter, r *http.Request, status int, name string, value any) {
	parsed, err := p.templates.get(func() (*template.Template, error) { return template.ParseFS(templateFiles, "templates/*.html") })
	var b bytes.Buffer
	if err == nil {
		err = parsed.ExecuteTemplate(&b, name, value)
	}
	if err != nil {
		http.Error(w, "render the page: "+err.Error(), http.StatusInternalServerError)
		return
	}
	content := b.Bytes()
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	if acceptsGzip(r) {
		if packed, err := pack(content); err == nil {
			h.Set("Content-Encoding", "gzip")
			content = packed
		}
	}
	w.WriteHeader(status)
	_, _ = w.Write(content)
}

func (p *Page) shell(r *http.Request) shell { return shell{languageOf(r), p.assets} }

func (p *Page) index(w http.ResponseWriter, r *http.Request) {
	l := languageOf(r)
	d := document{shell: p.shell(r), SignedIn: signedIn(r), Texts: texts.Page(l), State: p.source.State(l)}
	if id := r.PathValue("id"); id != "" {
		if detail, ok := p.source.Prompt(l, id); ok {
			d.Prompt = &detail
		}
	}
	p.render(w, r, http.StatusOK, "index.html", d)
}

// signInDocument is what the sign-in's template shows.
type signInDocument struct {
	shell
	To string
	// IsWrong is true if the token was refused, IsTooLong if it does not fit into a cookie.
	IsWrong, IsTooLong bool
}

func (p *Page) signInForm(w http.ResponseWriter, r *http.Request, status int) {
	to := r.FormValue("to")
	if !strings.HasPrefix(to, "/") {
		to = "/"
	}
	to = localPath(to)
	if u, err := url.Parse(to); err == nil && u.Query().Has("lang") { // the page that leads here has a language that was chosen
		r = r.Clone(r.Context())
		r.URL.RawQuery = url.Values{"lang": {u.Query().Get("lang")}}.Encode()
	}
	p.render(w, r, status, "signin.html", signInDocument{p.shell(r), to, status == http.StatusUnauthorized, status == http.StatusRequestEntityTooLarge})
}
