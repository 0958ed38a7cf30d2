// SPDX-License-Identifier: Apache-2.0

package words

import (
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// translations is where Chinese versions of pages are, under the names of their originals.
const translations = "docs/zh/"

// original is the page that a page is a translation of; any other page is its own.
func original(name string) string {
	switch {
	case name == translations+"README.md":
		return "README.md"
	case strings.HasPrefix(name, translations):
		return "docs/" + strings.TrimPrefix(name, translations)
	}
	return name
}

// translation is where the translation of a page is, if there is one.
func translation(name string) string {
	if name == "README.md" {
		return translations + name
	}
	return translations + strings.TrimPrefix(name, "docs/")
}

// outline is what a page and its translation have in common.
type outline struct {
	headings []string // "##"
	anchors  []string // of the headings, as GitHub makes them
	blocks   []string // of code, each with its language and without comments
	codes    []string // what is marked as code in the text, once each
	links    []string // as they are written
	rows     int      // of tables
	items    int      // of lists
}

var (
	fencePattern      = regexp.MustCompile("^ *```([a-z]*)$")
	headingPattern    = regexp.MustCompile(`^(#+) (.*)$`)
	itemPattern       = regexp.MustCompile(`^ *(-|[0-9]+\.) `)
	codePattern       = regexp.MustCompile("`[^`]+`")
	targetPattern     = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	commentPattern    = regexp.MustCompile(`(^|\s+)#(\s.*)?$`)
	destinationRemove = regexp.MustCompile(`\]\([^)]*\)`)
)

// anchor is the fragment that GitHub gives a heading.
func anchor(heading string) string {
	heading = destinationRemove.ReplaceAllString(heading, "")
	var b strings.Builder
	for _, r := range strings.ToLower(heading) {
		switch {
		case unicode.IsLetter(r), unicode.IsNumber(r), r == '-', r == '_':
			b.WriteRune(r)
		case r == ' ':
			b.WriteByte('-')
		}
	}
	return b.String()
}

func outlineOf(text string) (o outline) {
	codes := map[string]bool{}
	block, open := "", false
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if m := fencePattern.FindStringSubmatch(line); m != nil {
			if open {
				o.blocks = append(o.blocks, block)
			}
			block, open = m[1]+"\n", !open
			continue
		}
		if open {
			if code := commentPattern.ReplaceAllString(line, ""); code != "" || line == "" {
				block += code + "\n"
			}
			continue
		}
		if m := headingPattern.FindStringSubmatch(line); m != nil {
			o.headings, o.anchors = append(o.headings, m[1]), append(o.anchors, anchor(m[2]))
		}
		if strings.HasPrefix(line, "|") {
			o.rows++
		}
		if itemPattern.MatchString(line) {
			o.items++
		}
		for _, m := range targetPattern.FindAllStringSubmatch(line, -1) {
			o.links = append(o.links, m[1])
		}
		for _, code := range codePattern.FindAllString(line, -1) {
			codes[code] = true
		}
	}
	o.codes = slices.Sorted(maps.Keys(codes))
	return o
}

// destinations are the links of a page as paths of originals, each with the number of the
// heading that it leads to; and what is wrong with them.
func destinations(pages map[string]string, name string) (found, wrong []string) {
	for _, link := range outlineOf(pages[name]).links {
		if strings.Contains(link, "://") {
			found = append(found, link)
			continue
		}
		file, fragment, _ := strings.Cut(link, "#")
		to := name
		if file != "" {
			to = path.Join(path.Dir(name), file)
		}
		if _, translated := pages[translation(to)]; translated && strings.HasPrefix(name, translations) && to != original(name) {
			wrong = append(wrong, fmt.Sprintf("the link %s leads to a page that %s translates", link, translation(to)))
		}
		destination := original(to)
		if fragment != "" {
			heading := slices.Index(outlineOf(pages[to]).anchors, fragment)
			if heading < 0 {
				wrong = append(wrong, fmt.Sprintf("the link %s leads to no heading", link))
			}
			destination += fmt.Sprintf("#%d", heading)
		}
		found = append(found, destination)
	}
	slices.Sort(found)
	return found, wrong
}

// differences compares a translation with its original.
func differences(pages map[string]string, name string) (found []string) {
	source, ok := pages[original(name)]
	if !ok {
		return []string{"there is no " + original(name)}
	}
	want, got := outlineOf(source), outlineOf(pages[name])
	for _, d := range []struct {
		what      string
		want, got []string
	}{
		{"levels of headings", want.headings, got.headings},
		{"blocks of code", want.blocks, got.blocks},
		{"words marked as code", want.codes, got.codes},
		{"rows of tables, items of lists", []string{fmt.Sprint(want.rows, want.items)}, []string{fmt.Sprint(got.rows, got.items)}},
	} {
		if !slices.Equal(d.want, d.got) {
			found = append(found, fmt.Sprintf("%s differ: %s", d.what, missing(d.want, d.got)))
		}
	}
	links, _ := destinations(pages, original(name))
	same, wrong := destinations(pages, name)
	if !slices.Equal(links, same) {
		found = append(found, "links differ: "+missing(links, same))
	}
	return append(found, wrong...)
}

// missing is what one of two lists has more often than the other.
func missing(want, got []string) string {
	count := map[string]int{}
	for _, w := range want {
		count[w]++
	}
	for _, g := range got {
		count[g]--
	}
	var all []string
	for _, text := range slices.Sorted(maps.Keys(count)) {
		switch n := count[text]; {
		case n > 0:
			all = append(all, fmt.Sprintf("the original has %q %d times more", text, n))
		case n < 0:
			all = append(all, fmt.Sprintf("the translation has %q %d times more", text, -n))
		}
	}
	if all == nil {
		return "the order"
	}
	return strings.Join(all, "; ")
}

// TestTranslationsFollowTheirOriginals compares headings, code, tables and links of each page
// below docs/zh with its original. Who changes one changes the other.
func TestTranslationsFollowTheirOriginals(t *testing.T) {
	root, files := tracked(t, ".md")
	pages := map[string]string{}
	for _, name := range files {
		raw, err := os.ReadFile(filepath.Join(root, name))
		require.NoError(t, err)
		pages[name] = string(raw)
	}
	for _, name := range []string{"README.md", "existing.md", "alerting.md", "comfyui.md", "gpus.md", "history.md", "security.md", "dcgm-names.md", "telemetry.md", "dashboards.md", "processes.md"} {
		assert.Contains(t, pages, translations+name)
	}
	for name := range pages {
		if !strings.HasPrefix(name, translations) {
			continue
		}
		for _, d := range differences(pages, name) {
			t.Errorf("%s: %s", name, d)
		}
		assert.Regexp(t, `\p{Han}{2}`, pages[name], "%s is not Chinese", name)
	}
}

func TestTheComparisonOfTranslationsFindsEachDifference(t *testing.T) {
	const english = "# A page\n\n[中文](zh/a.md)\n\n## How to\n\nSet `key` ([b](b.md#two), [more](#how-to)):\n\n```yaml\n# a comment\nkey: 1   # why\n```\n\n| a | b |\n- c\n"
	const chinese = "# 一页\n\n[English](../a.md)\n\n## 怎么做\n\n设置`key`（[更多](#怎么做)，[b](b.md#二)）：\n\n```yaml\n# 注释\nkey: 1   # 原因\n```\n\n| 甲 | 乙 |\n- 丙\n"
	pages := func(english, chinese string) map[string]string {
		return map[string]string{"docs/a.md": english, "docs/zh/a.md": chinese, "docs/b.md": "# One\n\n## Two\n", "docs/zh/b.md": "# 一\n\n## 二\n"}
	}
	require.Empty(t, differences(pages(english, chinese), "docs/zh/a.md"))
	require.NotEmpty(t, differences(map[string]string{"docs/zh/a.md": chinese}, "docs/zh/a.md"), "no original")
	for what, change := range map[string][2]string{
		"a new section":         {english + "\n## New\n", chinese},
		"another level":         {strings.Replace(english, "## How", "### How", 1), chinese},
		"another value":         {strings.Replace(english, "key: 1", "key: 2", 1), chinese},
		"another language":      {strings.Replace(english, "```yaml", "```json", 1), chinese},
		"another key":           {strings.Replace(english, "`key`", "`other`", 1), chinese},
		"a new row":             {english + "| c | d |\n", chinese},
		"a new item":            {english + "- d\n", chinese},
		"a new link":            {english + "[b](b.md)\n", chinese},
		"a link to the English": {english, strings.Replace(chinese, "b.md#二", "../b.md#two", 1)},
		"a link to no heading":  {english, strings.Replace(chinese, "#二", "#三", 1)},
		"another heading":       {english, strings.Replace(chinese, "(#怎么做)", "(#一页)", 1)},
	} {
		require.NotEqual(t, [2]string{english, chinese}, change, what)
		assert.NotEmpty(t, differences(pages(change[0], change[1]), "docs/zh/a.md"), what)
	}
}
