// SPDX-License-Identifier: Apache-2.0

// Package snapshot compares what the components emit with what they emitted
// before the house was rebuilt. It knows the components by their public
// factories alone, so that a rename inside them changes nothing here. It is
// deleted at the end of the rebuild.
package snapshot

import (
	"bytes"
	"compress/gzip"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the recorded snapshot again")

// difference is one wanted change of behaviour: lines that match the pattern may
// be added or removed.
type difference struct {
	pattern *regexp.Regexp
	line    string
	used    bool
}

var wanted struct {
	mu    sync.Mutex
	all   []*difference
	parts map[string]bool // the parts that were compared in this run
}

// LoadDifferences reads testdata/differences.txt: a line each, with a pattern, the
// number of the part and the reason, separated by tabs.
func LoadDifferences() error {
	raw, err := os.ReadFile(filepath.Join("testdata", "differences.txt"))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(raw)) {
		line = strings.TrimRight(line, "\n")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Split(line, "\t")
		if len(fields) != 3 {
			return fmt.Errorf("differences.txt: %q must have three fields separated by tabs: pattern, part, reason", line)
		}
		pattern, err := regexp.Compile(fields[0])
		if err != nil {
			return fmt.Errorf("differences.txt: %w", err)
		}
		wanted.all = append(wanted.all, &difference{pattern: pattern, line: line})
	}
	return nil
}

// recordedParts lists the parts that testdata holds.
func recordedParts() []string {
	paths, _ := filepath.Glob(filepath.Join("testdata", "*.txt.gz"))
	for i, p := range paths {
		paths[i] = strings.TrimSuffix(filepath.Base(p), ".txt.gz")
	}
	return paths
}

// UnusedDifferences reports patterns that match nothing, if every recorded part was
// compared in this run.
func UnusedDifferences() error {
	for _, p := range recordedParts() {
		if !wanted.parts[p] {
			return nil
		}
	}
	var unused []string
	for _, d := range wanted.all {
		if !d.used {
			unused = append(unused, d.line)
		}
	}
	if len(unused) > 0 {
		return fmt.Errorf("differences.txt: these patterns match no difference:\n%s", strings.Join(unused, "\n"))
	}
	return nil
}

func readPart(t *testing.T, part string) []string {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", part+".txt.gz"))
	require.NoError(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	require.NoError(t, err)
	raw, err := io.ReadAll(z)
	require.NoError(t, err)
	return strings.Split(strings.TrimSuffix(string(raw), "\n"), "\n")
}

func writePart(t *testing.T, part string, lines []string) {
	t.Helper()
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	require.NoError(t, err)
	_, err = io.WriteString(z, strings.Join(lines, "\n")+"\n")
	require.NoError(t, err)
	require.NoError(t, z.Close())
	require.NoError(t, os.WriteFile(filepath.Join("testdata", part+".txt.gz"), b.Bytes(), 0o600))
}

// CheckPart compares the lines of one part with the recorded ones, in any order,
// with their number. Differences that no pattern of differences.txt allows fail.
func CheckPart(t *testing.T, part string, lines []string) {
	t.Helper()
	require.NotEmpty(t, lines)
	for _, l := range lines {
		require.NotContains(t, l, "\n", "a line of the snapshot holds a line break")
	}
	slices.Sort(lines)
	if *update {
		writePart(t, part, lines)
		return
	}
	balance := map[string]int{}
	for _, l := range readPart(t, part) {
		balance[l]--
	}
	for _, l := range lines {
		balance[l]++
	}
	wanted.mu.Lock()
	defer wanted.mu.Unlock()
	if wanted.parts == nil {
		wanted.parts = map[string]bool{}
	}
	wanted.parts[part] = true
	var unexpected []string
	for l, n := range balance {
		if n == 0 {
			continue
		}
		allowed := false
		for _, d := range wanted.all {
			if d.pattern.MatchString(part + " " + l) {
				d.used, allowed = true, true
			}
		}
		if !allowed {
			unexpected = append(unexpected, fmt.Sprintf("%s %+d", l, n))
		}
	}
	slices.Sort(unexpected)
	if len(unexpected) > 0 {
		t.Errorf("%s: %d lines differ (+ is new, - is no longer there):\n%s", part, len(unexpected), strings.Join(unexpected[:min(len(unexpected), 60)], "\n"))
	}
}
