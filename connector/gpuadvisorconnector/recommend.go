// SPDX-License-Identifier: Apache-2.0

package gpuadvisorconnector

import (
	"sync"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/otelcol-gpu/otelcol-gpu/internal/advice"
	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
	"github.com/otelcol-gpu/otelcol-gpu/internal/recommend"
)

// recommender follows a week's requests by their traces, and says what they say. Its methods may
// be called from any goroutine.
type recommender struct {
	advice *advice.Advisor
	now    func() time.Time

	// mu guards everything declared below. It is not held while recommendations are made.
	mu   sync.Mutex
	week *recommend.Week

	// making is held while recommendations are made; it guards everything declared below.
	making sync.Mutex
	last   recommend.Recommendations
	until  time.Time // they hold
}

const (
	// Recommendations are made again after recommendedFor at the soonest, and so late that they cost
	// no more than a 1/recommendedShare of a processor's time: those of a whole week half a second.
	recommendedFor   = 10 * time.Second
	recommendedShare = 1000
)

// recommendedClass is what recommendations need to know of a class.
func recommendedClass(c ClassConfig) recommend.Class {
	return recommend.Class{Deadline: c.Deadline, Objective: c.Objective, Batch: c.Batch}
}

func newRecommender(cfg *Config, a *advice.Advisor, now func() time.Time) *recommender {
	s := recommend.Settings{Classes: map[string]recommend.Class{}, Default: recommendedClass(cfg.DefaultClass), Requests: cfg.Limits.Requests}
	for name, c := range cfg.Classes {
		s.Classes[name] = recommendedClass(c)
	}
	return &recommender{advice: a, now: now, week: recommend.New(s)}
}

// traces adds the prompts that have ended, after the advisor has learned from them.
func (r *recommender) traces(td ptrace.Traces) {
	all := requestsIn(td, r.now())
	for i := range all {
		all[i].complete(r.advice)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range all {
		r.week.Add(&all[i].Request)
	}
}

// Recommendations implements [page.Recommender].
func (r *recommender) Recommendations() recommend.Recommendations {
	r.making.Lock()
	defer r.making.Unlock()
	now := r.now()
	if now.Before(r.until) {
		return r.last
	}
	r.mu.Lock()
	c := r.week.Copy(now)
	r.mu.Unlock()
	r.last = c.Recommend(r.advice)
	r.until = now.Add(max(recommendedFor, recommendedShare*r.now().Sub(now)))
	return r.last
}

// save returns the week, to be loaded after a restart.
func (r *recommender) save() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.week.Save()
}

// load reads what save returned.
func (r *recommender) load(raw []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.week.Load(raw)
}

// dropped is how many requests found no room.
func (r *recommender) dropped() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.week.Dropped
}

// Bounds implements [bounds.Registered].
func (r *recommender) Bounds() []bounds.Bound {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.week.Bounds()
}
