// SPDX-License-Identifier: Apache-2.0

package causes

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/machine"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
)

// facts are what the rules of one evaluation read.
type facts struct {
	machine *machine.Machine
	now     time.Time
	gpus    []*machine.GPU
	servers []*machine.Server
	prompts []promptStats // by server
}

func newFacts(m *machine.Machine, prompts Prompts, now time.Time) *facts {
	f := &facts{machine: m, now: now, gpus: m.GPUs(), servers: m.Servers()}
	byServer := map[string]int{}
	for p := range prompts.Ended(now.Add(-eventWindow)) {
		i, known := byServer[p.Server]
		if !known {
			i = len(f.prompts)
			byServer[p.Server] = i
			f.prompts = append(f.prompts, promptStats{server: p.Server})
		}
		f.prompts[i].all = append(f.prompts[i].all, p)
	}
	slices.SortFunc(f.prompts, func(a, b promptStats) int { return cmp.Compare(a.server, b.server) })
	return f
}

// finding is a condition that a rule found.
type finding struct {
	gpu    *machine.GPU
	server string
	// detail distinguishes several conditions of one cause.
	detail string
	args   texts.Args
	// text and remedy are the keys of texts that fit better than the cause's.
	text, remedy texts.Message
	// since is when it began, if that is known; else it began when it was found first.
	since time.Time
	// severity replaces that of the cause.
	severity view.Severity
}

// count is a number of things, in words.
func count(what string, n int) texts.Message {
	return texts.Message{Key: "count." + what, Args: texts.Args{"n": n}}
}

// percent is a share as a whole number.
func percent(share float64) int { return int(math.Round(100 * share)) }

// bytes is an amount of memory.
func bytes(n float64) texts.Message { return texts.Bytes(int64(n)) }

// since is how long ago something was, without its fractions.
func since(then, now time.Time) texts.Message { return duration(now.Sub(then).Seconds()) }

// duration is a number of seconds in words, without their fractions: it grows while it is read.
func duration(seconds float64) texts.Message {
	if whole := int(math.Round(seconds)); whole < 120 {
		return texts.Message{Key: "figure.seconds", Args: texts.Args{"s": whole}}
	}
	return texts.Seconds(time.Duration(math.Round(seconds)) * time.Second)
}

// seconds rounds up: what waits for 2.1 s does not wait longer than 3 s.
func seconds(d float64) int { return int(math.Ceil(d)) }

// minutes rounds up, to one at least.
func minutes(d time.Duration) int { return max(int(math.Ceil(d.Minutes())), 1) }
