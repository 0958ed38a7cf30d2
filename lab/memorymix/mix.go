// SPDX-License-Identifier: Apache-2.0

// Package memorymix asks a policy about prompts on GPUs of all sizes, in virtual time inside
// testing/synctest, and compares what became of them with the simulator's truth: what ran out of
// memory though it was admitted, and what was refused though it would have fitted.
package memorymix

import (
	"math/rand/v2"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakecomfyui"
	"github.com/otelcol-gpu/otelcol-gpu/lab/law"
	"github.com/otelcol-gpu/otelcol-gpu/lab/sharedgpu"
)

// Answer is what a policy does with a prompt.
type Answer int

// The answers.
const (
	Refuse Answer = iota
	Admit
	// Probe admits a prompt that may not fit: it counts apart.
	Probe
)

// Policy decides on prompts. It is called by one goroutine at a time.
type Policy interface {
	// Ask decides on a prompt that has come to a server.
	Ask(q *Question) Answer
	// Saw is what sampling shows of a prompt that has ended.
	Saw(e Execution)
}

// Question is a prompt, and what is known of its GPU.
type Question struct {
	Server   int
	Load     law.Load
	Readings sharedgpu.Readings
	Servers  []State

	mix *running
}

// State is what is known of a server.
type State struct {
	PID    int
	Memory fakecomfyui.Memory // as /system_stats shows it
	// Queue are the prompts that run or wait.
	Queue []law.Load
}

// Free posts /free with both flags to a server.
func (q *Question) Free(server int) {
	s := q.mix.servers[server]
	if len(s.queue) == 0 { // nothing is freed while a prompt runs
		s.work.FreeParts(true, true)
	}
}

// Execution is a prompt that has ended.
type Execution struct {
	Server int
	Load   law.Load
	Probe  bool
	// Active is the most that tensors were seen to use, in bytes; 0 if they were not sampled. [Worked]
	// has the truth.
	Active int64
	sharedgpu.Worked
}

// Outcome counts prompts.
type Outcome struct {
	Asked, Admitted, Refused int
	// OutOfMemory are those of the admitted that ran out of memory, probes aside.
	OutOfMemory int
	// LostToTenant are those of them that fitted when they were admitted, and whose memory the foreign process has
	// taken since.
	LostToTenant int
	// Probes are admitted as such, FailedProbes ran out of memory.
	Probes, FailedProbes int
	// Fitting are the prompts that would have fitted by the simulator's truth, RefusedFitting those of
	// them that were refused.
	Fitting, RefusedFitting int
}

// Add counts another run's, too.
func (o *Outcome) Add(p Outcome) {
	o.Asked, o.Admitted, o.Refused, o.OutOfMemory = o.Asked+p.Asked, o.Admitted+p.Admitted, o.Refused+p.Refused, o.OutOfMemory+p.OutOfMemory
	o.LostToTenant += p.LostToTenant
	o.Probes, o.FailedProbes, o.Fitting, o.RefusedFitting = o.Probes+p.Probes, o.FailedProbes+p.FailedProbes, o.Fitting+p.Fitting, o.RefusedFitting+p.RefusedFitting
}

// OutOfMemoryPart is the part of the admitted, probes aside, that ran out of memory.
func (o *Outcome) OutOfMemoryPart() float64 { return part(o.OutOfMemory, o.Admitted-o.Probes) }

// RefusedPart is the part of those that would have fitted that was refused.
func (o *Outcome) RefusedPart() float64 { return part(o.RefusedFitting, o.Fitting) }

func part(n, of int) float64 {
	if of == 0 {
		return 0
	}
	return float64(n) / float64(of)
}

// Mix is a situation.
type Mix struct {
	Memory  int64 // that processes may use, in bytes
	Servers int
	Loads   []law.Load // the classes
	// Offered is the exclusive GPU time that arrives in a second.
	Offered float64
	// Alternating has each prompt come to the next server when the one before has ended.
	Alternating bool
	// Boundary has a foreign process leave 0.85 to 1.15 of each prompt's typical need to it.
	Boundary bool
	Tenant   bool // a foreign process takes and returns 2 GiB
}

// reserve is the driver's own part of a GPU's memory.
const reserve = 350 * law.MiB

// sides are those that people upload.
var sides = []int{384, 512, 680, 768, 1024, 1280}

// colours are classes of DDColor, by side.
func colours(sides []int) (all []law.Load) {
	for _, side := range sides {
		all = append(all, law.Load{Side: side, Batch: 1, Checkpoint: law.DefaultCheckpoint})
	}
	return all
}

// Broad are GPUs of 8, 16 and 24 GiB with one to four servers, and with a foreign process.
func Broad() (all []Mix) {
	for _, gib := range []int64{8, 16, 24} {
		for servers := 1; servers <= 4; servers++ {
			all = append(all, Mix{
				Memory: gib*law.GiB - reserve, Servers: servers, Loads: colours(sides), Offered: 0.6, Tenant: servers%2 == 0,
			})
		}
	}
	return all
}

// Boundary is one server beside a foreign process that leaves about as much as each prompt needs.
func Boundary() Mix {
	return Mix{Memory: 24*law.GiB - reserve, Servers: 1, Loads: colours(sides), Offered: 0.1, Boundary: true}
}

// Alternating are two servers on 8 GiB, whose photos are large.
func Alternating() Mix {
	return Mix{Memory: 8*law.GiB - reserve, Servers: 2, Loads: colours([]int{768, 900, 1024, 1150}), Alternating: true}
}

// mean is the classes' mean exclusive time.
func (m *Mix) mean(l *law.Law) (mean time.Duration) {
	for _, load := range m.Loads {
		mean += l.MeanTime(load) / time.Duration(len(m.Loads))
	}
	return mean
}

// pick draws a class.
func (m *Mix) pick(random *rand.Rand) law.Load { return m.Loads[random.IntN(len(m.Loads))] }
