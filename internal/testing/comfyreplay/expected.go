// SPDX-License-Identifier: Apache-2.0

package comfyreplay

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
)

// ExpectedSpan is a span of a recording, as receiver/comfyuireceiver/testdata has it.
type ExpectedSpan struct {
	// Name is the span's name, followed by " #" and the node's id for a node's span.
	// Parent is the name of its parent in this form; empty for a root.
	Name, Parent string
	Status       string // Ok, Error or empty
	Message      string
	Events       int
	// Attributes are values as pcommon.Value.AsString prints them.
	Attributes map[string]string
}

// ExpectedSpans reads the spans that a recording's prompts give.
func ExpectedSpans(t testing.TB, recording string) []ExpectedSpan {
	t.Helper()
	root, err := figure.Root()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(root, "receiver", "comfyuireceiver", "testdata", recording+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	_, output, _ := strings.Cut(string(raw), "----\n")
	return ParseSpans(output)
}

var (
	spanLine = regexp.MustCompile(`^ *-?\d+ms \+\d+ms ( *)(comfyui.*?)(?: \[(Ok|Error)(?: ("(?:[^"\\]|\\.)*"))?\])? \|(.*)$`)
	pair     = regexp.MustCompile(` ([\w.]+)=("(?:[^"\\]|\\.)*"|\S+)`)
)

// ParseSpans reads spans as the receiver's interaction test prints them.
func ParseSpans(text string) (all []ExpectedSpan) {
	var above []string // the names of the spans above, by depth
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(strings.TrimLeft(line, " "), "! ") && len(all) > 0 {
			all[len(all)-1].Events++
			continue
		}
		m := spanLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		depth := len(m[1]) / 2
		s := ExpectedSpan{Name: m[2], Status: m[3], Attributes: map[string]string{}}
		s.Message, _ = strconv.Unquote(m[4])
		for _, kv := range pair.FindAllStringSubmatch(m[5], -1) {
			value := kv[2]
			if unquoted, err := strconv.Unquote(value); err == nil {
				value = unquoted
			}
			s.Attributes[kv[1]] = value
		}
		above = append(above[:min(depth, len(above))], s.Name)
		if depth > 0 {
			s.Parent = above[depth-1]
		}
		all = append(all, s)
	}
	return all
}
