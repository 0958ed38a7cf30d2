// SPDX-License-Identifier: Apache-2.0

package texts

import (
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// others are words for which the catalogue has another one: one thing has one name.
var others = map[Language]map[string]string{
	English: {"does not answer": "does not respond", "Drain the node": "Drain the host", "reboot the node": "reboot the host", "alert fires": "alerts are firing", "is found.": "was found."},
	Chinese: {"追踪": "trace", "图片": "图像", "没有应答": "无响应", "使用过高": "占用过高", "查看者": "同时查看的人数"},
}

func TestOneThingHasOneName(t *testing.T) {
	for l, words := range others {
		for key, text := range catalogues()[l] {
			for word, better := range words {
				assert.NotContains(t, text.Singular+text.Plural, word, "%s, %s: write %s", l, key, better)
			}
		}
	}
}

// TestAFigureStandsApartFromChineseCharacters: 还有 16.0 秒. What fills {lately} begins with a
// character, and messages to users have the form that their service has always had.
func TestAFigureStandsApartFromChineseCharacters(t *testing.T) {
	touches := regexp.MustCompile(`\p{Han}\{[a-z_]+\}`)
	for key, text := range catalogues()[Chinese] {
		if strings.HasPrefix(key, "advice.message.") {
			continue
		}
		assert.NotRegexp(t, touches, strings.ReplaceAll(text.Plural, "{lately}", ""), key)
	}
}

func TestThePlaceOfTheFirstNodeIsAPlace(t *testing.T) {
	place := func(n int) string {
		return Message{Key: "prompt.place.running", Args: Args{"n": n, "of": 6}}.In(English)
	}
	assert.Equal(t, "running, node 1 of 6", place(1))
	assert.Equal(t, "running, node 4 of 6", place(4))
}

// TestASideHasItsUnit wherever pixels are shown to an operator.
func TestASideHasItsUnit(t *testing.T) {
	for _, l := range Languages() {
		for key, text := range catalogues()[l] {
			if isOfOperators := strings.HasPrefix(key, "cause.") || strings.HasPrefix(key, "recommend."); isOfOperators && strings.Contains(text.Plural, "{side}") {
				assert.Contains(t, text.Plural, "{side} px", "%s, %s", l, key)
			}
		}
	}
}
