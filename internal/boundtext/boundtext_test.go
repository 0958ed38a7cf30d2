// SPDX-License-Identifier: Apache-2.0

package boundtext

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestShortTextsStayAsTheyAre(t *testing.T) {
	for _, s := range []string{"", "DDColor_Colorize", "老照片上色", strings.Repeat("x", 256)} {
		assert.Equal(t, s, Line(s, 256))
		assert.Equal(t, s, Text(s, 256))
		assert.Equal(t, s, Tail(s, 256))
	}
}

func TestTwoLongTextsRemainTwo(t *testing.T) {
	a, b := strings.Repeat("x", 300)+"a", strings.Repeat("x", 300)+"b"
	for _, cut := range []func(string, int) string{Line, Text} {
		assert.NotEqual(t, cut(a, 256), cut(b, 256))
		assert.Equal(t, strings.Repeat("x", 245)+"…", cut(a, 256)[:245+3])
		assert.Len(t, cut(a, 256), 256)
	}
	a, b = "a"+strings.Repeat("x", 300), "b"+strings.Repeat("x", 300)
	assert.NotEqual(t, Tail(a, 256), Tail(b, 256))
}

func TestACutFallsBetweenTwoCharacters(t *testing.T) {
	for shift := range 4 {
		s := strings.Repeat("a", shift) + strings.Repeat("照", 300)
		for _, cut := range []func(string, int) string{Line, Text, Tail} {
			out := cut(s, 256)
			assert.True(t, utf8.ValidString(out))
			assert.NotContains(t, out, "\uFFFD", "shift %d", shift)
			assert.LessOrEqual(t, len(out), 256)
			assert.Greater(t, len(out), 250)
		}
	}
}

func TestControlCharactersAndInvalidBytesAreReplaced(t *testing.T) {
	assert.Equal(t, "a\uFFFDb\uFFFDc\uFFFD", Line("a\nb\x00c\xff", 256))
	assert.Equal(t, "a\nb\tc\uFFFD\uFFFD", Text("a\nb\tc\r\x1b", 256))
	assert.Equal(t, "a\uFFFDb", Line("a\u2028b", 256), "some log readers end a line here")
}

func TestAStackTraceKeepsItsEnd(t *testing.T) {
	s := strings.Repeat("  File \"nodes.py\", line 1\n", 100) + "RuntimeError: out of memory"
	out := Tail(s, 128)
	require.True(t, strings.HasPrefix(out, "…"))
	assert.True(t, strings.HasSuffix(out, "RuntimeError: out of memory"))
	assert.LessOrEqual(t, len(out), 128)
}

func TestTextsThatGrowByTheReplacementAreBoundToo(t *testing.T) {
	a, b := strings.Repeat("\xff", 255), strings.Repeat("\xff", 256)
	assert.LessOrEqual(t, len(Line(a, 256)), 256)
	assert.NotEqual(t, Line(a, 256), Line(b, 256))
}

func FuzzBounds(f *testing.F) {
	f.Add("a\nb", 40)
	f.Add(strings.Repeat("照", 100), 33)
	f.Add(strings.Repeat("\xff", 100), 100)
	f.Fuzz(func(t *testing.T, s string, n int) {
		n = MinBytes + (n&0x7fffffff)%1000
		for _, cut := range []func(string, int) string{Line, Text, Tail} {
			out := cut(s, n)
			require.LessOrEqual(t, len(out), n)
			require.True(t, utf8.ValidString(out))
			require.False(t, strings.ContainsFunc(out, isControlInText))
			require.Equal(t, out, cut(out, n), "a bound text stays as it is")
		}
		require.False(t, strings.ContainsFunc(Line(s, n), unicode.IsControl))
	})
}
