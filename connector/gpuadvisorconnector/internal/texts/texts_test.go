// SPDX-License-Identifier: Apache-2.0

package texts

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A text that one language lacks, and a placeholder that differs, would show as a key or as
// braces on the page.
func TestEachTextIsInEachLanguageWithTheSamePlaceholders(t *testing.T) {
	placeholder := regexp.MustCompile(`\{[a-z_]+\}`)
	placeholders := func(e entry) []string {
		return slices.Compact(slices.Sorted(slices.Values(placeholder.FindAllString(e.Singular+" "+e.Plural, -1))))
	}
	assert.Equal(t, Keys(English), Keys(Chinese))
	for key, english := range catalogues()[English] {
		chinese := catalogues()[Chinese][key]
		assert.NotEmpty(t, english.Plural, "en, %s", key)
		assert.NotEmpty(t, chinese.Plural, "zh, %s", key)
		assert.Empty(t, chinese.Singular, "%s: Chinese has no singular", key)
		assert.Equal(t, placeholders(english), placeholders(chinese), key)
		if english.Singular != "" {
			assert.Contains(t, english.Plural, "{n}", "%s: plurals depend on n", key)
		}
	}
}

func TestEachFileOfTheCatalogueIsParsed(t *testing.T) {
	for _, l := range Languages() {
		_, err := parse(l)
		require.NoError(t, err)
	}
}

func TestAValueInBracesIsNotFilledIn(t *testing.T) {
	m := Message{Key: "{a} and {b}", Args: Args{"a": "{b}", "b": "{a}"}}
	assert.Equal(t, "{a} and {b}", m.In(English), "a missing key is returned as it is")
	catalogues()[English]["test.two"] = entry{Plural: m.Key}
	t.Cleanup(func() { delete(catalogues()[English], "test.two") })
	m.Key = "test.two"
	assert.Equal(t, "{b} and {a}", m.In(English))
}

func TestACountDecidesBetweenTheForms(t *testing.T) {
	catalogues()[English]["test.count"] = entry{Singular: "{n} prompt", Plural: "{n} prompts"}
	t.Cleanup(func() { delete(catalogues()[English], "test.count") })
	assert.Equal(t, "1 prompt", Message{Key: "test.count", Args: Args{"n": 1}}.In(English))
	assert.Equal(t, "2 prompts", Message{Key: "test.count", Args: Args{"n": 2}}.In(English))
}

func TestADurationHasNoEmptyUnit(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0.0 s", 400 * time.Microsecond: "less than 1 ms", time.Millisecond: "1 ms", 9400 * time.Microsecond: "9 ms", 9600 * time.Microsecond: "0.01 s", 40 * time.Millisecond: "0.04 s", 25 * time.Second: "25 s", 2 * time.Minute: "2 min", 200 * time.Second: "3 min 20 s", 3599900 * time.Millisecond: "60 min", time.Hour: "1 h", 2*time.Hour + 5*time.Minute: "2 h 5 min",
	} {
		assert.Equal(t, want, Seconds(d).In(English))
	}
}

func TestChineseTextsCountGPUsAndPercentagesInOneWay(t *testing.T) {
	for key, text := range catalogues()[Chinese] {
		assert.NotContains(t, text.Plural, " %", key)
		assert.NotContains(t, strings.ReplaceAll(text.Plural, " ", ""), "张GPU", key)
	}
}
