// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// logAnswer is an answer of /internal/logs/raw; lines are times and texts in turn.
func logAnswer(lines ...string) string {
	var b strings.Builder
	b.WriteString(`{"entries": [`)
	for i := 0; i < len(lines); i += 2 {
		if i > 0 {
			b.WriteString(", ")
		}
		line, _ := json.Marshal(map[string]string{"t": lines[i], "m": lines[i+1] + "\n"})
		b.Write(line)
	}
	return b.String() + `], "size": {"cols": 80, "rows": 24}}`
}

const (
	tiled     = "Warning: Ran out of memory when regular VAE decoding, retrying with tiled VAE decoding."
	attention = "out of memory error, empty cache and trying again"
)

func TestLogShowsWhatWasTriedAgain(t *testing.T) {
	l, err := ParseLog(strings.NewReader(logAnswer(
		"2026-11-25T04:27:15.201103", "\x1b[32m[INFO]\x1b[0m got prompt",
		"2026-11-25T04:27:16", tiled,
		"2026-11-25T04:27:17.5", "Warning: Ran out of memory when regular VAE encoding, retrying with tiled VAE encoding.",
		"2026-11-25T04:27:18.25", attention,
		"2026-11-25T04:27:18.5", "out of memory error, increasing steps and trying again 2",
		"2026-11-25T04:27:19", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
		"2026-11-25T04:27:20", "trying again to reach the server",
		"when?", tiled,
		"2026-11-25T04:27:21.393603", "Prompt executed in 6.19 seconds",
	)))
	require.NoError(t, err)
	at := func(second float64) time.Time {
		return time.Date(2026, 11, 25, 4, 27, 0, 0, time.UTC).Add(time.Duration(second * float64(time.Second)))
	}
	assert.Equal(t, Log{
		Newest: at(21.393603), Retries: []Retry{{at(16), true}, {at(17.5), true}, {at(18.25), false}, {at(18.5), false}},
	}, l)

	var lines []string
	for range 2 * MaxRetries {
		lines = append(lines, "2026-11-25T04:27:15", tiled)
	}
	l, err = ParseLog(strings.NewReader(logAnswer(lines...)))
	require.NoError(t, err)
	assert.Len(t, l.Retries, MaxRetries)
	_, err = ParseLog(strings.NewReader(`{"entries": [{"t": `))
	require.Error(t, err)
}

// TestRetriesAreInTheReadersTime: the lines have no zone, and the server may be in another one.
func TestRetriesAreInTheReadersTime(t *testing.T) {
	read := time.Date(2026, 11, 25, 3, 27, 21, 0, time.UTC)
	for _, zone := range []time.Duration{0, 8 * time.Hour, -(9*time.Hour + 30*time.Minute), 5*time.Hour + 45*time.Minute} {
		for _, ahead := range []time.Duration{-3 * time.Minute, 0, 2 * time.Second} { // the newest line, or the other clock
			wall := read.Add(zone + ahead)
			l := Log{Newest: wall, Retries: []Retry{{At: wall.Add(-5 * time.Second), Tiled: true}}}
			got := l.RetriesAt(read.In(time.FixedZone("", 3600)))
			require.Len(t, got, 1)
			assert.True(t, got[0].Tiled)
			assert.Equal(t, ahead-5*time.Second, got[0].At.Sub(read), "%v %v", zone, ahead)
		}
	}
	quiet := Log{Newest: read.Add(-6 * time.Minute), Retries: []Retry{{At: read}}}
	assert.Empty(t, quiet.RetriesAt(read), "the zone is not known")
}
