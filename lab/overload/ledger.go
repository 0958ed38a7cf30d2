// SPDX-License-Identifier: Apache-2.0

package overload

import (
	"sync"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/lab/sharedgpu"
)

// Record is what became of a request.
type Record struct {
	*Request
	Came, Left time.Time
	// Accepted is when the server had accepted the prompt, zero if it never did.
	Accepted time.Time
	Refusals []Refused
	// Got is true if the image reached the client within its limit.
	Got bool
	// Err is why the client left without it.
	Err error
	// Began and Ended are when the prompt's work did, zero if it did not; Worked is what it was.
	Began, Ended time.Time
	Worked       sharedgpu.Worked
	// Predicted is what a response said of the prompt at PredictedAt, zero if it said nothing.
	Predicted   Band
	PredictedAt time.Time

	pid int // of the server
}

// Band is a prediction of the time until a prompt has ended: between Low and High with a probability
// of 90 %.
type Band struct{ Low, Median, High time.Duration }

// Predict keeps what a response predicts of a prompt when it passes it on. The last counts.
func (n *Node) Predict(prompt string, b Band) { n.PredictedAt(prompt, time.Now(), b) }

// PredictedAt is [Node.Predict] of what was predicted at a time before.
func (n *Node) PredictedAt(prompt string, at time.Time, b Band) {
	defer n.ledger.change()()
	if r := n.ledger.records[prompt]; r != nil {
		r.Predicted, r.PredictedAt = b, at
	}
}

// Refused is a refusal.
type Refused struct {
	At     time.Time
	Status int
	Reason string
	// Wait is the predicted wait, Predicted is false where the refusal has none.
	Wait      time.Duration
	Predicted bool
}

// ledger records what happens, and for how long the GPU is idle though somebody waits for it.
type ledger struct {
	pids []int // of the servers

	// mu guards everything declared below.
	mu       sync.Mutex
	begin    time.Time // what came before is not measured
	lasts    time.Duration
	records  map[string]*Record // by prompt id
	readings sharedgpu.Readings
	context  map[int]int64 // bytes, by process
	working  int           // prompts that a server works on
	// waiting are those whose prompt is held, or that wait for their Retry-After.
	waiting map[*Record]bool
	since   time.Time // up to which idle is counted
	wanted  bool      // the GPU is idle, and something that waits fits
	idle    time.Duration
}

func newLedger() *ledger {
	return &ledger{records: map[string]*Record{}, waiting: map[*Record]bool{}, context: map[int]int64{}, since: time.Now()}
}

// measure begins the time that is measured.
func (l *ledger) measure(lasts time.Duration) {
	defer l.change()()
	l.begin, l.lasts = time.Now(), lasts
}

// contexts reads the servers' CUDA contexts, which is all that they hold yet.
func (l *ledger) contexts(n *Node) {
	defer l.change()()
	for _, u := range n.Upstreams {
		l.pids = append(l.pids, u.Work.PID())
	}
	for _, p := range l.readings.Processes {
		l.context[p.PID] = p.Used
	}
}

// change locks the ledger for a change; what it returns ends it.
func (l *ledger) change() (done func()) {
	l.mu.Lock()
	now := time.Now()
	if l.wanted {
		from, to := later(l.since, l.begin), now
		if end := l.begin.Add(l.lasts); end.Before(to) {
			to = end
		}
		l.idle += max(to.Sub(from), 0)
	}
	l.since = now
	return func() {
		l.wanted = l.working == 0 && l.anyFits()
		l.mu.Unlock()
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// anyFits reports whether something that waits fits into what the GPU has free and its own server
// holds. The caller holds mu.
func (l *ledger) anyFits() bool {
	for r := range l.waiting {
		room := l.readings.Total - l.readings.Used
		for _, p := range l.readings.Processes {
			if p.PID == r.pid {
				room += p.Used - l.context[p.PID]
			}
		}
		if r.Cost.Need <= room {
			return true
		}
	}
	return false
}

// Show implements [sharedgpu.Screen].
func (l *ledger) Show(r sharedgpu.Readings) {
	defer l.change()()
	l.readings = r
}

// Began implements [sharedgpu.Observer].
func (l *ledger) Began(_ *sharedgpu.Server, prompt string) {
	defer l.change()()
	l.working++
	if r := l.records[prompt]; r != nil {
		r.Began = time.Now()
	}
}

// Ended implements [sharedgpu.Observer].
func (l *ledger) Ended(_ *sharedgpu.Server, prompt string, w sharedgpu.Worked) {
	defer l.change()()
	l.working--
	if r := l.records[prompt]; r != nil {
		r.Ended, r.Worked = time.Now(), w
	}
}

func (l *ledger) came(r *Request) {
	defer l.change()()
	l.records[r.ID] = &Record{Request: r, Came: time.Now(), pid: l.pids[r.Server]}
}

func (l *ledger) submits(r *Request) {
	defer l.change()()
	l.waiting[l.records[r.ID]] = true
}

func (l *ledger) accepted(r *Request) {
	defer l.change()()
	record := l.records[r.ID]
	record.Accepted = time.Now()
	delete(l.waiting, record)
}

func (l *ledger) refused(r *Request, status int, refusal *Refusal) {
	defer l.change()()
	record := l.records[r.ID]
	extra := &refusal.Error.Extra
	refused := Refused{At: time.Now(), Status: status, Reason: extra.Reason}
	if extra.PredictedWait != nil {
		refused.Wait, refused.Predicted = time.Duration(*extra.PredictedWait*float64(time.Second)), true
	}
	record.Refusals = append(record.Refusals, refused)
}

func (l *ledger) left(r *Request, err error) {
	defer l.change()()
	record := l.records[r.ID]
	record.Left, record.Got, record.Err = time.Now(), err == nil, err
	delete(l.waiting, record)
}
