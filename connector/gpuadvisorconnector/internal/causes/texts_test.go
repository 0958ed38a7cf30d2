// SPDX-License-Identifier: Apache-2.0

package causes

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
)

var (
	han = regexp.MustCompile(`\p{Han}`)
	// literals are what an operator types or searches for, whatever the language.
	literals = regexp.MustCompile(`nvidia-smi|--[a-z][a-z-]*|(?:GET|POST) /[a-z]+|XID \d+|[a-z]+/[a-z]+\.yaml|\{[a-z_]+\}`)
)

// sorted are the literals of a text, each once.
func sorted(text string) []string {
	return slices.Compact(slices.Sorted(slices.Values(literals.FindAllString(text, -1))))
}

// TestARemedyIsTheSameInEachLanguage: it exists, in that language, and names the same commands, requests
// and values.
func TestARemedyIsTheSameInEachLanguage(t *testing.T) {
	compared, withLiterals := 0, 0
	for _, key := range slices.Compact(slices.Sorted(slices.Values(append(texts.Keys(texts.English), texts.Keys(texts.Chinese)...)))) {
		if !strings.HasPrefix(key, "cause.") || !strings.Contains(key, ".remedy") {
			continue
		}
		english, chinese := texts.Message{Key: key}.In(texts.English), texts.Message{Key: key}.In(texts.Chinese)
		assert.NotEqual(t, key, english, "%s is not in the English catalogue", key)
		assert.NotEqual(t, key, chinese, "%s is not in the Chinese catalogue", key)
		assert.NotRegexp(t, han, english, key)
		assert.Regexp(t, han, chinese, key)
		assert.Equal(t, sorted(english), sorted(chinese), "%s names other commands, requests or values in Chinese:\n%s\n%s", key, english, chinese)
		compared++
		if len(sorted(english)) > 0 {
			withLiterals++
		}
	}
	assert.GreaterOrEqual(t, compared, len(Table), "each cause has a remedy")
	assert.GreaterOrEqual(t, withLiterals, 8, "the comparison finds what remedies name")
}

// TestARunbookIsTheSameInEachLanguage, and is there: of each cause with an alert, and of no other.
func TestARunbookIsTheSameInEachLanguage(t *testing.T) {
	root, err := figure.Root()
	require.NoError(t, err)
	for i := range Table {
		c := &Table[i]
		condition := Condition{Cause: c, Text: texts.Message{Key: "cause." + c.ID}, Remedy: texts.Message{Key: "cause." + c.ID + ".remedy"}}
		english, chinese := condition.View(texts.English), condition.View(texts.Chinese)
		assert.Equal(t, english.Runbook, chinese.Runbook, c.ID)
		assert.NotEmpty(t, english.Remedy, c.ID)
		assert.NotEqual(t, english.Remedy, chinese.Remedy, c.ID)
		if c.Alert == "" {
			assert.Empty(t, english.Runbook, c.ID)
			continue
		}
		file, found := strings.CutPrefix(english.Runbook, "https://github.com/otelcol-gpu/otelcol-gpu/blob/main/docs/runbooks/")
		assert.True(t, found, "%s: %s", c.ID, english.Runbook)
		content, err := os.ReadFile(filepath.Join(root, "docs", "runbooks", file))
		require.NoError(t, err, c.ID)
		assert.Contains(t, string(content), c.Alert, c.ID)
	}
}

// TestAnAgeIsWhole: a count of seconds has no fraction, which would change with each look.
func TestAnAgeIsWhole(t *testing.T) {
	for seconds, want := range map[float64]string{0.4: "0 s", 4.6: "5 s", 16.2: "16 s", 119.4: "119 s", 119.6: "2 min", 200: "3 min 20 s"} {
		assert.Equal(t, want, duration(seconds).In(texts.English))
	}
}
