// SPDX-License-Identifier: Apache-2.0

package page

import (
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
)

// literal is a string or a template of a script. What is in ${} is one NUL.
type literal struct {
	text   string
	isHTML bool
}

// lexer reads the literals of a script, those in ${} included. It knows what ours use: no
// regular expression has a quote.
type lexer struct {
	source   string
	at       int
	literals []literal
}

func literalsOf(source string) []literal {
	l := &lexer{source: source}
	l.code()
	return l.literals
}

// code reads code until the brace that ends it.
func (l *lexer) code() {
	for depth := 0; l.at < len(l.source); l.at++ {
		rest := l.source[l.at:]
		switch c := rest[0]; {
		case strings.HasPrefix(rest, "//"):
			l.at += strings.IndexByte(rest+"\n", '\n')
		case strings.HasPrefix(rest, "/*"):
			l.at += strings.Index(rest, "*/") + 1
		case c == '\'' || c == '"':
			end := 1
			for rest[end] != c {
				if rest[end] == '\\' {
					end++
				}
				end++
			}
			l.literals = append(l.literals, literal{text: rest[1:end]})
			l.at += end
		case c == '`':
			l.template(strings.HasSuffix(l.source[:l.at], "html"))
		case c == '{':
			depth++
		case c == '}':
			if depth == 0 {
				return
			}
			depth--
		}
	}
}

func (l *lexer) template(isHTML bool) {
	var text strings.Builder
	for l.at++; l.source[l.at] != '`'; l.at++ {
		if strings.HasPrefix(l.source[l.at:], "${") {
			l.at += 2
			l.code()
			text.WriteByte(0)
			continue
		}
		text.WriteByte(l.source[l.at])
	}
	l.literals = append(l.literals, literal{text.String(), isHTML})
}

var (
	tag      = regexp.MustCompile(`<[^>]*>`)
	spoken   = regexp.MustCompile(`(?:aria-label|title|placeholder|alt|label)="?[^"\x00>]*\pL`)
	twoWords = regexp.MustCompile(`\pL{2,}[ ,]+\pL{2,}`)
	sentence = regexp.MustCompile(`^\p{Lu}\p{Ll}+$`)
)

// notTexts are literals that read like texts.
var notTexts = []string{"Content-Type", "12px system-ui"}

// isClassList reports whether each word of a literal is a class of the styles.
func isClassList(text string) bool {
	for word := range strings.FieldsSeq(text) {
		before, _, _ := strings.Cut(word, "\x00")
		if before == "" {
			continue
		}
		found := false
		for _, name := range []string{"assets/style.css", "assets/views.css"} {
			styles, err := files.ReadFile(name)
			found = found || err == nil && strings.Contains(string(styles), "."+before)
		}
		if !found {
			return false
		}
	}
	return true
}

// objection is why a literal is a text that belongs into the catalogue; empty if it is none.
func objection(l literal) string {
	hasLetter := func(s string) bool { return strings.ContainsFunc(s, unicode.IsLetter) }
	switch {
	case l.isHTML:
		if outside := tag.ReplaceAllString(l.text, ""); hasLetter(outside) {
			return "text in the markup: " + strings.TrimSpace(outside)
		}
		for _, t := range tag.FindAllString(l.text, -1) {
			if spoken.MatchString(t) {
				return "text in an attribute: " + t
			}
		}
	case slices.Contains(notTexts, l.text), isClassList(l.text):
	case strings.ContainsFunc(l.text, func(r rune) bool { return r > unicode.MaxLatin1 && unicode.IsLetter(r) }), twoWords.MatchString(l.text), sentence.MatchString(l.text):
		return "text: " + l.text
	}
	return ""
}

// ourFiles reads the embedded files that we wrote, by name.
func ourFiles(t *testing.T, where fs.FS, pattern string) map[string]string {
	t.Helper()
	found, err := fs.Glob(where, pattern)
	require.NoError(t, err)
	require.NotEmpty(t, found)
	all := map[string]string{}
	for _, name := range found {
		content, err := fs.ReadFile(where, name)
		require.NoError(t, err)
		all[path.Base(name)] = string(content)
	}
	return all
}

func TestNoTextStandsInTheScripts(t *testing.T) {
	for name, source := range ourFiles(t, files, "assets/*.js") {
		found := literalsOf(source)
		for _, l := range found {
			if why := objection(l); why != "" {
				t.Errorf("%s: %s: move it to the catalogue", name, why)
			}
		}
		if name != "series.js" { // it has none
			assert.NotEmpty(t, found, name)
		}
	}
}

func TestNoTextStandsInTheTemplates(t *testing.T) {
	action := regexp.MustCompile(`\{\{[^}]*\}\}`)
	for name, source := range ourFiles(t, templateFiles, "templates/*.html") {
		filled := action.ReplaceAllString(source, "\x00")
		assert.Empty(t, objection(literal{filled, true}), name)
	}
}

func TestTheCheckFindsEachKindOfText(t *testing.T) {
	for source, count := range map[string]int{
		"html`<p>Queue</p>`":                                     1,
		"html`<p title=\"Open it\">${x}</p>`":                    1,
		"html`<p class=\"a b\">${ok ? 'No sample yet' : x}</p>`": 1,
		"f('Loading')":                                           1,
		"f('队列')":                                                1,
		"f(`${n} of them wait`)":                                 1,
		"html`<p title=${t('page.x')}>·</p>`":                    0,
		"// The queue waits\nf('page.queue')":                    0,
		"html`<b>${a}</b> / ${b}`":                               0,
	} {
		found := 0
		for _, l := range literalsOf(source) {
			if objection(l) != "" {
				found++
			}
		}
		assert.Equal(t, count, found, source)
	}
}

func TestEachTextThatThePageUsesIsInTheCatalogueAndEachIsUsed(t *testing.T) {
	var patterns []string
	for name, source := range ourFiles(t, files, "assets/*.js") {
		for _, l := range literalsOf(source) {
			if strings.HasPrefix(l.text, "page.") && !l.isHTML {
				patterns = append(patterns, "^"+strings.ReplaceAll(regexp.QuoteMeta(l.text), "\x00", "[a-z_]+")+"$")
			}
		}
		assert.NotContains(t, source, "style=\"", "%s: the policy drops it", name)
		assert.LessOrEqual(t, strings.Count(source, "\n"), 400, name)
	}
	quoted := regexp.MustCompile(`"(page\.[a-z_.]+)"`)
	sources := ourFiles(t, templateFiles, "templates/*.html")
	for _, source := range sources {
		for _, match := range quoted.FindAllStringSubmatch(source, -1) {
			patterns = append(patterns, "^"+regexp.QuoteMeta(match[1])+"$")
		}
	}
	patterns = append(patterns, `^page\.unit\.`) // index.go
	var keys []string
	for _, key := range texts.Keys(texts.English) {
		if strings.HasPrefix(key, "page.") {
			keys = append(keys, key)
		}
	}
	used := map[string]bool{}
	for _, p := range patterns {
		matches := regexp.MustCompile(p)
		found := false
		for _, key := range keys {
			if matches.MatchString(key) {
				used[key], found = true, true
			}
		}
		assert.True(t, found, "%s is not in the catalogue", p)
	}
	for _, key := range keys {
		assert.True(t, used[key], "%s is not used", key)
	}
}

func TestTheAssetsAreSmall(t *testing.T) {
	total := 0
	for _, a := range loadAssets().byName {
		packed, err := pack(a.plain)
		require.NoError(t, err)
		total += len(packed)
	}
	figure.AtMost("page.assets", float64(total)/1e3, "KB", 120)
	assert.LessOrEqual(t, total, 120_000)
}
