// SPDX-License-Identifier: Apache-2.0

// Package boundtext bounds texts that come from outside (clients, servers, other
// processes) before they become attributes, labels or log fields. A text that is cut is
// cut between two characters and carries "…" and 8 hexadecimal digits of the SHA-256 of
// the whole text where it was cut, so that two long texts remain two.
package boundtext

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MinBytes is the smallest bound: the mark of a cut and some text.
const MinBytes = 32

// markBytes is the length of the mark: "…" and 8 hexadecimal digits.
const markBytes = len("…") + 8

// Line returns a text of one line, of at most maxBytes bytes of valid UTF-8: control
// characters and invalid bytes are replaced by U+FFFD. maxBytes is at least [MinBytes].
func Line(s string, maxBytes int) string {
	return bound(s, maxBytes, false, isControl)
}

// Text is [Line] for texts of several lines: line feeds and tabs are kept.
func Text(s string, maxBytes int) string { return bound(s, maxBytes, false, isControlInText) }

// Tail is [Text] for stack traces: the end is kept, and the mark precedes it.
func Tail(s string, maxBytes int) string { return bound(s, maxBytes, true, isControlInText) }

// isControl is true of what ends a line, too.
func isControl(r rune) bool { return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' }

func isControlInText(r rune) bool { return isControl(r) && r != '\n' && r != '\t' }

func bound(s string, maxBytes int, keepEnd bool, replaced func(rune) bool) string {
	if len(s) <= maxBytes && isClean(s, replaced) {
		return s
	}
	// Each replaced byte or character takes up to 3 bytes, so the part that is kept is
	// found after the replacement. Only what can be kept is looked at.
	part := s
	if len(s) > maxBytes {
		if keepEnd {
			part = s[len(s)-maxBytes:]
			for len(part) > 0 && !utf8.RuneStart(part[0]) && len(part) > maxBytes-utf8.UTFMax {
				part = part[1:]
			}
		} else {
			part = s[:maxBytes]
			if last := lastRune(part); !utf8.FullRuneInString(part[last:]) {
				part = part[:last]
			}
		}
	}
	clean := cleaned(part, replaced)
	if len(s) <= maxBytes && len(clean) <= maxBytes {
		return clean
	}
	sum := sha256.Sum256([]byte(s))
	mark := "…" + hex.EncodeToString(sum[:4])
	room := maxBytes - markBytes
	if keepEnd {
		from := max(0, len(clean)-room)
		for from < len(clean) && !utf8.RuneStart(clean[from]) {
			from++
		}
		return mark + clean[from:]
	}
	to := min(len(clean), room)
	for to > 0 && to < len(clean) && !utf8.RuneStart(clean[to]) {
		to--
	}
	return clean[:to] + mark
}

// lastRune is the index at which the last character of s begins.
func lastRune(s string) int {
	i := len(s) - 1
	for i > 0 && i > len(s)-utf8.UTFMax && !utf8.RuneStart(s[i]) {
		i--
	}
	return max(i, 0)
}

func isClean(s string, replaced func(rune) bool) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' { // else it is plain ASCII, as most texts are
			return utf8.ValidString(s[i:]) && !strings.ContainsFunc(s[i:], replaced)
		}
	}
	return true
}

func cleaned(s string, replaced func(rune) bool) string {
	return strings.Map(func(r rune) rune {
		if replaced(r) {
			return utf8.RuneError
		}
		return r // strings.Map passes U+FFFD for each invalid byte
	}, s)
}
