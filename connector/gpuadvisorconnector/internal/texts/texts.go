// SPDX-License-Identifier: Apache-2.0

// Package texts is the catalogue of everything that the page says, in each language.
package texts

import (
	"embed"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"
)

// Language is a language of the catalogue.
type Language string

// The languages.
const (
	English Language = "en"
	Chinese Language = "zh"
)

// Languages lists them, the default first.
func Languages() []Language { return []Language{English, Chinese} }

// Args are the values of a text's placeholders: strings, integers, and what is itself a
// [Text]. Where a text has plurals the integer n decides between them.
type Args map[string]any

// Text is something that can be said in each language.
type Text interface {
	// In is the text in a language.
	In(l Language) string
}

// List is several texts, separated as the language does it.
type List []Text

// In implements [Text].
func (t List) In(l Language) string {
	said := make([]string, 0, len(t))
	for _, each := range t {
		said = append(said, each.In(l))
	}
	return strings.Join(said, Message{Key: "list.separator"}.In(l))
}

// Message is a text that is not yet in a language.
type Message struct {
	Key  string
	Args Args
}

// entry is a text of a language in its plural forms. Chinese has one.
type entry struct {
	Singular string `yaml:"one"`
	Plural   string `yaml:"other"`
}

// UnmarshalYAML reads a plain text or {one: …, other: …}.
func (e *entry) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind == yaml.ScalarNode {
		return node.Decode(&e.Plural)
	}
	type plain entry
	return node.Decode((*plain)(e))
}

//go:embed catalogue
var files embed.FS

var catalogues = sync.OnceValue(func() map[Language]map[string]entry {
	all := map[Language]map[string]entry{}
	for _, l := range Languages() {
		parsed, err := parse(l)
		if err != nil {
			panic(err) // embedded: a test reads them all
		}
		all[l] = parsed
	}
	return all
})

// parse reads the files of a language: catalogue/en/*.yaml, each a map from key to text.
func parse(l Language) (map[string]entry, error) {
	folder := "catalogue/" + string(l)
	names, err := files.ReadDir(folder)
	if err != nil {
		return nil, fmt.Errorf("read texts: %w", err)
	}
	all := map[string]entry{}
	for _, name := range names {
		content, err := files.ReadFile(folder + "/" + name.Name())
		if err != nil {
			return nil, fmt.Errorf("read texts: %w", err)
		}
		var some map[string]entry
		if err := yaml.Unmarshal(content, &some); err != nil {
			return nil, fmt.Errorf("parse %s/%s: %w", folder, name.Name(), err)
		}
		for key, e := range some {
			if _, twice := all[key]; twice {
				return nil, fmt.Errorf("%s/%s: key %q is in another file, too", folder, name.Name(), key)
			}
			all[key] = e
		}
	}
	return all, nil
}

// Verbatim is a text that is the same in each language: a name.
type Verbatim string

// In implements [Text].
func (v Verbatim) In(Language) string { return string(v) }

// Has reports whether the catalogue has a key.
func Has(key string) bool {
	_, ok := catalogues()[English][key]
	return ok
}

// In implements [Text]. A key that is missing is returned as it is; tests prove
// that none is.
func (m Message) In(l Language) string {
	e, ok := catalogues()[l][m.Key]
	if !ok {
		return m.Key
	}
	text := e.Plural
	if n, isCount := m.Args["n"].(int); isCount && n == 1 && e.Singular != "" {
		text = e.Singular
	}
	// One pass: a value may itself hold a text in braces.
	var pairs []string
	for name, value := range m.Args {
		filled := fmt.Sprint(value)
		if inner, isText := value.(Text); isText {
			filled = inner.In(l)
		}
		pairs = append(pairs, "{"+name+"}", filled)
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

// Page returns the texts that begin with "page.", for the scripts: a string, or a pair of
// plural forms.
func Page(l Language) map[string]any {
	shown := map[string]any{}
	for key, e := range catalogues()[l] {
		switch {
		case !strings.HasPrefix(key, "page."):
		case e.Singular != "":
			shown[key] = map[string]string{"one": e.Singular, "other": e.Plural}
		default:
			shown[key] = e.Plural
		}
	}
	return shown
}

// Keys lists the keys of a language.
func Keys(l Language) []string { return slices.Sorted(maps.Keys(catalogues()[l])) }
