// SPDX-License-Identifier: Apache-2.0

// Package comfyreplay plays recordings of a real ComfyUI: a server that answers and
// sends as it did, and clients that ask and listen as they did.
package comfyreplay

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
)

// Line is one thing that was seen on the wire.
type Line struct {
	MS          float64         `json:"ms"`
	Client      string          `json:"client"`
	Kind        string          `json:"kind"`
	Method      string          `json:"method"`
	Path        string          `json:"path"`
	Body        json.RawMessage `json:"body"`
	Status      int             `json:"status"`
	ContentType string          `json:"content_type"`
	Data        json.RawMessage `json:"data"`
	Length      int             `json:"length"`
	Head        string          `json:"head"`

	raw map[string]json.RawMessage
}

// Recording is one file of testdata/comfyui/recordings.
type Recording struct {
	Name  string
	Lines []Line
}

// All reads all recordings, by name.
func All(t testing.TB) []Recording {
	t.Helper()
	root, err := figure.Root()
	if err != nil {
		t.Fatal(err)
	}
	paths, err := filepath.Glob(filepath.Join(root, "testdata", "comfyui", "recordings", "*.jsonl"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("there are no recordings: %v", err)
	}
	slices.Sort(paths)
	all := make([]Recording, 0, len(paths))
	for _, path := range paths {
		r, err := read(path)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

func read(path string) (Recording, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return Recording{}, err
	}
	r := Recording{Name: strings.TrimSuffix(filepath.Base(path), ".jsonl")}
	lines := bufio.NewScanner(bytes.NewReader(raw))
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var l Line
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			return r, fmt.Errorf("%s: %w", path, err)
		}
		_ = json.Unmarshal(lines.Bytes(), &l.raw)
		r.Lines = append(r.Lines, l)
	}
	return r, lines.Err()
}

// at is a line's time since the first.
func (r *Recording) at(i int) time.Duration {
	return time.Duration((r.Lines[i].MS - r.Lines[0].MS) * float64(time.Millisecond))
}

var startTime = regexp.MustCompile(`"execution_start",\s*(?:"data":\s*)?\{[^}]*"timestamp":\s*(\d+)`)

// Begin is about when the recording began, by the server's clock: its first execution
// started after the first request for a prompt. It is zero if nothing was executed.
func (r *Recording) Begin() time.Time {
	var asked time.Duration
	for i := range r.Lines {
		l := &r.Lines[i]
		if l.Kind == "request" && strings.HasSuffix(l.Path, "/prompt") && asked == 0 {
			asked = r.at(i)
		}
		for _, text := range [][]byte{l.Data, l.Body} {
			if m := startTime.FindSubmatch(text); m != nil {
				ms, _ := strconv.ParseInt(string(m[1]), 10, 64)
				if l.Kind == "ws_text" {
					asked = r.at(i)
				}
				return time.UnixMilli(ms).Add(-asked)
			}
		}
	}
	return time.Time{}
}

// Content is what was in a request or an answer: JSON, or text that was none.
func (l *Line) Content() []byte {
	if len(l.Body) == 0 || string(l.Body) == "null" {
		return nil
	}
	var text string
	if json.Unmarshal(l.Body, &text) == nil {
		return []byte(text)
	}
	return l.Body
}

// message is the part of a text frame that the player needs.
type message struct {
	Type string `json:"type"`
	Data struct {
		PromptID string `json:"prompt_id"`
	} `json:"data"`
}

func (l *Line) message() (m message) {
	_ = json.Unmarshal(l.Data, &m)
	return m
}
