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

// GiB is a size with its unit, in MiB where it is small.
func (s shell) GiB(bytes int64) string {
	if mib := float64(bytes) / (1 << 20); bytes != 0 && math.Abs(mib) < 999.5 {
		return s.T(mebibytes, "mib", threeDigits(mib))
	}
	return s.T("page.unit.gib", "v", threeDigits(float64(bytes)/(1<<30)))
}

// Watts is a power with its unit.
func (s shell) Watts(v float64) string { return s.T("page.unit.w", "v", threeDigits(v)) }

// Seconds is a duration with its unit: milliseconds below a second, minutes or hours where it is long.
// What is less than a millisecond is shorter than the collector can tell.
func (s shell) Seconds(v float64) string {
	switch {
	case v < 5e-6:
		return s.T("page.unit.s", "v", 0)
	case v < 0.0009995:
		return s.T("page.unit.ms", "v", "< 1")
	case v < 0.9995:
		return s.T("page.unit.ms", "v", threeDigits(v*1000))
	case v < 999.5:
		return s.T("page.unit.s", "v", threeDigits(v))
	case v < 5999:
		return s.T("page.unit.min", "v", threeDigits(v/60))
	}
	return s.T("page.unit.h", "v", threeDigits(v/3600))
}

// Percent is a share with its unit.
func (s shell) Percent(v *float64) string {
	if v == nil {
		return s.T("page.none")
	}
	return s.T("page.unit.percent", "v", strconv.Itoa(int(math.Round(*v*100))))
}

// Celsius is a temperature with its unit.
func (s shell) Celsius(v float64) string {
	return s.T("page.unit.celsius", "v", strconv.Itoa(int(math.Round(v))))
}

// Age is a duration since something with its unit: whole, as of what grows.
func (s shell) Age(v float64) string {
	switch v = max(v, 0); {
	case v < 119.5:
		return s.T("page.unit.s", "v", int(math.Round(v)))
	case v < 7170:
		return s.T("page.unit.min", "v", int(math.Round(v/60)))
	}
	return s.T("page.unit.h", "v", int(math.Round(v/3600)))
}

// threeDigits is a number with three significant digits; whole numbers keep all of theirs. What is
// below half a thousandth is 0. format.js does the same.
func threeDigits(v float64) string {
	size, decimals := math.Abs(v), 0
	if size < 0.0005 {
		return "0"
	}
	for limit := 99.95; size < limit; limit /= 10 {
		decimals++
	}
	return strconv.FormatFloat(v, 'f', decimals, 64)
}

// mebibytes is the unit that the page has in common with the collector's sentences.
const mebibytes = "figure.mebibytes"

// pageTexts are the texts that the scripts know.
func pageTexts(l texts.Language) map[string]any {
	all := texts.Page(l)
	all[mebibytes] = texts.Message{Key: mebibytes}.In(l)
	return all
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

// NewestSample says how old the newest sample is. Without scripts the page says it as of its own time.
func (d *document) NewestSample() string {
	if d.State.Newest == nil {
		return d.T("page.newest.none")
	}
	return d.T("page.newest.age", "age", d.Age(d.State.Time.Sub(*d.State.Newest).Seconds()))
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
	d := &document{shell: p.shell(r), SignedIn: signedIn(r), Texts: pageTexts(l), State: p.source.State(l)}
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
