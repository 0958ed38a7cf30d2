// SPDX-License-Identifier: Apache-2.0

package page

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// signInLife is how long a browser stays signed in.
const signInLife = 7 * 24 * time.Hour

// maxTokenLength is that of a token that is accepted by the form: browsers keep cookies of
// 4 KB. Sealed and encoded, a token is a third longer.
const maxTokenLength = 2500

// SignIn lets browsers sign in at a server that wants a token in the header Authorization
// (bearertokenauth, oidcauth), which no browser sends when a page is opened. next is the
// handler of the finished [http.Server], with its authentication. The sign-in page keeps the
// token, sealed with a key of this process, in a cookie, and the handler sets the header
// from it. Other clients send the header as ever. A link on another site opens the form, too,
// since browsers leave the cookie out: the form leads on.
func (p *Page) SignIn(next http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /sign-in", func(w http.ResponseWriter, r *http.Request) { p.signInForm(w, r, http.StatusOK) })
	mux.HandleFunc("POST /sign-in", func(w http.ResponseWriter, r *http.Request) { p.signIn(w, r, next) })
	mux.HandleFunc("POST /sign-out", p.signOut)
	mux.HandleFunc("GET /assets/{version}/{name}", p.assets.serve) // the sign-in page needs them
	mux.Handle("/", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.authorise(w, r, next) }))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p.guard(w, r) {
			mux.ServeHTTP(w, r)
		}
	})
}

type signedInKey struct{}

// signedIn reports whether a request came with the sign-in's cookie.
func signedIn(r *http.Request) bool { return r.Context().Value(signedInKey{}) != nil }

// authorise sets the header of a request with a cookie. Pages that are refused lead to the
// sign-in.
func (p *Page) authorise(w http.ResponseWriter, r *http.Request, next http.Handler) {
	if c, err := r.Cookie(p.cookieName(r)); err == nil && r.Header.Get("Authorization") == "" {
		if token, err := p.sealer.open(c.Value, time.Now()); err == nil {
			r = withToken(r, token)
		}
	}
	next.ServeHTTP(&challenged{ResponseWriter: w, request: r}, r)
}

func withToken(r *http.Request, token string) *http.Request {
	r = r.Clone(context.WithValue(r.Context(), signedInKey{}, true))
	r.Header.Set("Authorization", "Bearer "+token)
	return r
}

// challenged replaces the refusal of a page by a redirect to the sign-in, and adds the
// header to others that a 401 must have.
type challenged struct {
	http.ResponseWriter
	request *http.Request
	hidden  bool
}

// Unwrap lets http.ResponseController flush.
func (c *challenged) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func (c *challenged) WriteHeader(status int) {
	if status == http.StatusUnauthorized {
		if c.request.Method == http.MethodGet && strings.Contains(c.request.Header.Get("Accept"), "text/html") {
			c.hidden = true
			http.Redirect(c.ResponseWriter, c.request, "/sign-in?to="+url.QueryEscape(c.request.URL.RequestURI()), http.StatusSeeOther)
			return
		}
		c.Header().Set("WWW-Authenticate", "Bearer")
	}
	c.ResponseWriter.WriteHeader(status)
}

func (c *challenged) Write(content []byte) (int, error) {
	if c.hidden {
		return len(content), nil
	}
	return c.ResponseWriter.Write(content)
}

// signIn tries the token on the server's own authentication, and keeps it in a cookie.
func (p *Page) signIn(w http.ResponseWriter, r *http.Request, next http.Handler) {
	if err := http.NewCrossOriginProtection().Check(r); err != nil {
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, 16<<10)
	err := r.ParseForm()
	token := strings.TrimSpace(r.PostFormValue("token"))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) || len(token) > maxTokenLength {
		p.signInForm(w, r, http.StatusRequestEntityTooLarge)
		return
	}
	if token == "" || strings.ContainsAny(token, "\r\n") {
		p.signInForm(w, r, http.StatusUnauthorized)
		return
	}
	try := withToken(r, token)
	try.Method, try.Body, try.ContentLength = http.MethodGet, http.NoBody, 0
	try.URL = &url.URL{Path: "/v1/texts"}
	tried := &statusOnly{header: http.Header{}}
	next.ServeHTTP(tried, try)
	if tried.status >= http.StatusBadRequest {
		p.signInForm(w, r, http.StatusUnauthorized)
		return
	}
	http.SetCookie(w, p.cookie(r, p.sealer.seal(token, time.Now()), int(signInLife.Seconds())))
	http.Redirect(w, r, localPath(r.PostFormValue("to")), http.StatusSeeOther) //nolint:gosec // a path of this server
}

func (p *Page) signOut(w http.ResponseWriter, r *http.Request) {
	if err := http.NewCrossOriginProtection().Check(r); err != nil {
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	http.SetCookie(w, p.cookie(r, "", -1))
	http.Redirect(w, r, "/sign-in", http.StatusSeeOther)
}

// cookieName has the prefix that keeps a cookie to this host where the connection is
// encrypted, and the endpoint's port: browsers send cookies to every port of a host, and
// collectors that share a name would sign each other out.
func (p *Page) cookieName(r *http.Request) string {
	name := "otelcol-gpu"
	if r.TLS != nil {
		name = "__Host-otelcol-gpu"
	}
	if _, port, err := net.SplitHostPort(p.settings.Endpoint); err == nil {
		name += "-" + port
	}
	return name
}

func (p *Page) cookie(r *http.Request, value string, life int) *http.Cookie {
	return &http.Cookie{Name: p.cookieName(r), Value: value, Path: "/", MaxAge: life, HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteStrictMode} //nolint:gosec // secure where there is TLS
}

// localPath is a path of this server, else the page.
func localPath(to string) string {
	u, err := url.Parse(to)
	if err != nil || u.Scheme != "" || u.Host != "" || !strings.HasPrefix(to, "/") || strings.HasPrefix(to, "//") || strings.ContainsAny(to, "\\\r\n\t") {
		return "/"
	}
	return to
}

// statusOnly is an answer of which the status is wanted.
type statusOnly struct {
	header http.Header
	status int
}

func (s *statusOnly) Header() http.Header { return s.header }

func (s *statusOnly) WriteHeader(status int) {
	if s.status == 0 {
		s.status = status
	}
}

func (s *statusOnly) Write(content []byte) (int, error) {
	s.WriteHeader(http.StatusOK)
	return len(content), nil
}

// sealer encrypts tokens with a key that this process made: browsers send cookies to every
// port of a host, and another server there must not learn the token.
type sealer struct{ aead cipher.AEAD }

func newSealer() *sealer {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // the key has a valid length
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return &sealer{aead}
}

func (s *sealer) seal(token string, now time.Time) string {
	plain := binary.BigEndian.AppendUint64(nil, uint64(now.Add(signInLife).Unix())) //nolint:gosec // after 1970
	return base64.RawURLEncoding.EncodeToString(s.aead.Seal(nil, nil, append(plain, token...), nil))
}

var errCookie = errors.New("the cookie is not valid")

func (s *sealer) open(sealed string, now time.Time) (string, error) {
	content, err := base64.RawURLEncoding.DecodeString(sealed)
	if err != nil {
		return "", errCookie
	}
	plain, err := s.aead.Open(nil, nil, content, nil)
	if err != nil || len(plain) < 8 || int64(binary.BigEndian.Uint64(plain)) < now.Unix() {
		return "", errCookie
	}
	return string(plain[8:]), nil
}
