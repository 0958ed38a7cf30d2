// SPDX-License-Identifier: Apache-2.0

// Package advice decides whether a ComfyUI server of this host should run another prompt. It is
// pure: no clock, no lock, no I/O; whoever owns an Engine says what the servers' queues and the
// GPUs' memory are, and what prompts that ended took.
package advice

import (
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/advice/fit"
	"github.com/otelcol-gpu/otelcol-gpu/internal/advice/replay"
	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
	"github.com/otelcol-gpu/otelcol-gpu/internal/lru"
)

// Class is what is wanted of a class of prompts.
type Class struct {
	// Deadline is for how long after its request an image is of use; 0 is for ever.
	Deadline time.Duration
	// Objective is in what time prompts should end.
	Objective time.Duration
	// Batch work is never urgent: it runs when nothing else waits.
	Batch bool
	// Core work holds batch back while it waits, and has the levels. Where no class is core, each is
	// that is not batch.
	Core bool
}

// Settings are an Engine's.
type Settings struct {
	// Classes are by the names of task classes; others are as Default.
	Classes map[string]Class
	Default Class
	// BatchWaiting is how many batch prompts may wait in a server's queue while other work waits on
	// its GPU.
	BatchWaiting int
	// SafetyMargin is by how much the bounds of memory are raised, 0.05.
	SafetyMargin float64
	// MinSide is below which longer side no size is recommended, in pixels: an image that small is of no
	// use to somebody who asked for a larger one.
	MinSide int
	// Standby are servers elsewhere, for callers who can choose.
	Standby []string
	// MaxSampleAge is how old the newest sample of a GPU's memory may be.
	MaxSampleAge time.Duration
	// Measured is what executions cost, by measurements elsewhere.
	Measured []Measured
	// Kinds bounds the kinds of prompts that are learned, Servers and GPUs those that are known.
	Kinds, Servers, GPUs int
}

// MaxKinds is how many kinds of prompts are learned.
const MaxKinds = 500

// DefaultSettings are the usual ones.
func DefaultSettings() Settings {
	return Settings{
		Classes: map[string]Class{}, Default: Class{Deadline: time.Minute, Objective: 30 * time.Second},
		BatchWaiting: 2, SafetyMargin: 0.05, MinSide: 256, MaxSampleAge: 45 * time.Second, Kinds: MaxKinds, Servers: 256, GPUs: 128,
	}
}

// Engine decides about prompts. It is not safe for concurrent use.
type Engine struct {
	settings Settings
	servers  map[string]*server
	gpus     map[string]*gpu
	kinds    *lru.Cache[Kind, kind]
	// added is how many kinds were added.
	added    uint64
	classes  map[string]*calibration
	expected []expected
	// hasCore is true if a class is core.
	hasCore bool
	claims  claims
	// ended are prompts whose execution was seen to end, by id, until their traces come.
	ended *lru.Cache[string, observed]
	// ranBefore is what servers executed before this process, until they come.
	ranBefore map[string][]ran
	// Dropped counts what found no room.
	Dropped int64

	replay replay.Replay
	queues []replay.Queue
	busy   []float64
	inTime []due
	places []place
	comes  job
}

const (
	// maxEnded bounds the executions whose traces have not come, maxClasses the classes whose predictions are compared with what happened.
	maxEnded   = 4096
	maxClasses = 64
)

// New makes an engine that knows nothing yet.
func New(s Settings) *Engine {
	hasCore := s.Default.Core
	for _, c := range s.Classes {
		hasCore = hasCore || c.Core
	}
	return &Engine{
		hasCore:  hasCore,
		settings: s, servers: map[string]*server{}, gpus: map[string]*gpu{}, kinds: newKinds(s.Kinds),
		classes: map[string]*calibration{}, expected: expect(s.Measured), claims: newClaims(), ended: lru.New[string, observed](maxEnded),
		ranBefore: map[string][]ran{},
	}
}

// class is that of a name.
func (e *Engine) class(name string) Class {
	if c, ok := e.settings.Classes[name]; ok {
		return c
	}
	return e.settings.Default
}

// isCore reports whether a class's work holds batch back.
func (e *Engine) isCore(name string) bool {
	c := e.class(name)
	return c.Core || !e.hasCore && !c.Batch
}

// Bounds implements [bounds.Registered].
func (e *Engine) Bounds() []bounds.Bound {
	all := append(e.kinds.Bounds(), e.ended.Bounds()...)
	return append(all, []bounds.Bound{
		{Name: "advice.Engine.servers", Max: e.settings.Servers, Size: len(e.servers)},
		{Name: "advice.Engine.gpus", Max: e.settings.GPUs, Size: len(e.gpus)},
		{Name: "advice.Engine.classes", Max: maxClasses, Size: len(e.classes)},
		{Name: "advice.claims.byNumber", Max: maxClaims, Size: len(e.claims.byNumber)},
		{Name: "advice.claims.byAge", Max: maxClaims, Size: e.claims.byAge.Len()},
		{Name: "advice.Engine.ranBefore", Max: e.settings.Servers, Size: len(e.ranBefore)},
	}...)
}

// sizeOf is what the cost of a prompt may depend on.
func sizeOf(side, batch, steps int) fit.Size {
	s := float64(max(side, 1))
	return fit.Size{Pixels: s * s, Batch: float64(max(batch, 1)), Steps: float64(max(steps, 1))}
}

// seconds is a duration, at most a day.
func seconds(s float64) time.Duration {
	const day = 24 * 60 * 60
	return time.Duration(min(max(s, 0), day) * float64(time.Second))
}
