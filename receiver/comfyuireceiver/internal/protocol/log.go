// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// Log is what matters of the answer of GET /internal/logs/raw: the server's last 300 lines.
// Texts of lines are searched and not kept: they may hold prompts and paths.
type Log struct {
	// Newest is when the last line was written, by the server's wall clock, as if that were UTC.
	Newest time.Time
	// Retries are the last MaxRetries lines about work that ran out of memory and is tried again.
	Retries []Retry
}

// Retry is one such line.
type Retry struct {
	// At is when the work was tried again: in a Log by the server's wall clock.
	At time.Time
	// Tiled is true for an image that is coded again in tiles, which lasts until its node ends;
	// false for a step.
	Tiled bool
}

// MaxRetries bounds the retries of a log.
const MaxRetries = 64

// logTime is the form of a line's time: Python's datetime.isoformat without a zone, which
// omits a fraction of 0.
const logTime = "2006-01-02T15:04:05.999999"

// ParseLog reads the answer of GET /internal/logs/raw.
func ParseLog(body io.Reader) (l Log, err error) {
	d := newDocument(&lenientReader{from: body})
	err = d.object(func(name string) error {
		if name != "entries" {
			return d.SkipValue()
		}
		return d.array(func(int) error {
			var at, line string
			err := d.object(func(name string) error {
				switch name {
				case "t":
					return d.text(&at)
				case "m":
					return d.text(&line)
				}
				return d.SkipValue()
			})
			l.add(at, line)
			return err
		})
	})
	if err != nil {
		return Log{}, fmt.Errorf("read /internal/logs/raw: %w", err)
	}
	return l, nil
}

func (l *Log) add(at, line string) {
	t, err := time.Parse(logTime, at)
	if err != nil {
		return
	}
	l.Newest = t
	if r, is := retryIn(line); is {
		r.At = t
		l.Retries = append(l.Retries, r)
		l.Retries = l.Retries[max(len(l.Retries)-MaxRetries, 0):]
	}
}

// retryIn reports whether a line says that work is tried again. ComfyUI 0.3 to 0.33 write
// "Ran out of memory when regular VAE decoding, retrying with tiled VAE decoding.", the same of
// encoding (comfy/sd.py), "out of memory error, empty cache and trying again" and "…, increasing
// steps and trying again" (comfy/ldm/modules/attention.py).
func retryIn(line string) (r Retry, is bool) {
	_, rest, found := strings.Cut(strings.ToLower(line), "out of memory")
	switch {
	case !found:
	case strings.Contains(rest, "retrying with tiled"):
		return Retry{Tiled: true}, true
	case strings.Contains(rest, "trying again"):
		return Retry{}, true
	}
	return Retry{}, false
}

// The lines' times have no zone: it is found by the newest line, which a server has just
// written when a prompt ends. Zones differ by quarters of an hour.
const (
	zoneUnit = 15 * time.Minute
	maxQuiet = 5 * time.Minute
)

// RetriesAt are the retries of a log that was read at a time, with their times by the clock of
// its reader. There are none if the server has not written for so long that its zone is unknown.
func (l *Log) RetriesAt(read time.Time) []Retry {
	wall := time.Unix(read.Unix(), int64(read.Nanosecond())).UTC()
	ahead := l.Newest.Sub(wall)
	zone := ahead.Round(zoneUnit)
	if quiet := zone - ahead; quiet > maxQuiet || quiet < -maxQuiet {
		return nil
	}
	retries := make([]Retry, 0, len(l.Retries))
	for _, r := range l.Retries {
		at := r.At.Add(-zone)
		retries = append(retries, Retry{At: read.Add(at.Sub(wall)), Tiled: r.Tiled})
	}
	return retries
}
