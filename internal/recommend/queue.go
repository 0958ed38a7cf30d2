// SPDX-License-Identifier: Apache-2.0

package recommend

// lane is a server's queue in the replay: one request runs, the others wait in the order in which
// they came, batch work last where the queue is sorted.
type lane struct {
	urgent, batch fifo
	// runs is the place of the request that runs, left the seconds of the whole GPU that it needs
	// yet.
	runs  int
	left  float64
	works bool
}

// fifo is a queue of places.
type fifo struct {
	all   []int
	first int
}

func (f *fifo) push(i int) { f.all = append(f.all, i) }

func (f *fifo) pop() (i int, ok bool) {
	if f.first == len(f.all) {
		f.all, f.first = f.all[:0], 0
		return 0, false
	}
	i = f.all[f.first]
	f.first++
	return i, true
}

func (f *fifo) reset() { f.all, f.first = f.all[:0], 0 }

// gpuReplay is a GPU whose servers share its time: of k that work each has a k-th.
type gpuReplay struct {
	lanes   []lane
	now     float64 // s
	working int
}

// advance works up to a time, and has r count the requests that end.
func (g *gpuReplay) advance(to float64, r *replay) {
	for g.working > 0 {
		first := -1
		for l := range g.lanes {
			if g.lanes[l].works && (first < 0 || g.lanes[l].left < g.lanes[first].left) {
				first = l
			}
		}
		share := float64(g.working)
		end := g.now + g.lanes[first].left*share
		passed, over := g.lanes[first].left, end <= to
		if !over {
			passed, end = (to-g.now)/share, to
		}
		for l := range g.lanes {
			if g.lanes[l].works {
				g.lanes[l].left -= passed
			}
		}
		g.now = end
		if !over {
			return
		}
		r.ended(g.lanes[first].runs, end)
		g.next(&g.lanes[first], r.work)
	}
	g.now = to
}

// next begins what waits.
func (g *gpuReplay) next(l *lane, work []float64) {
	was := l.works
	if l.runs, l.works = l.urgent.pop(); !l.works {
		l.runs, l.works = l.batch.pop()
	}
	if l.works {
		l.left = work[l.runs]
	}
	switch {
	case l.works && !was:
		g.working++
	case was && !l.works:
		g.working--
	}
}

// add puts a request at the end of a lane.
func (g *gpuReplay) add(lane, i int, last bool, work []float64) {
	l := &g.lanes[lane]
	if last {
		l.batch.push(i)
	} else {
		l.urgent.push(i)
	}
	if !l.works {
		g.next(l, work)
	}
}

func (g *gpuReplay) reset() {
	for l := range g.lanes {
		g.lanes[l].urgent.reset()
		g.lanes[l].batch.reset()
		g.lanes[l].works = false
	}
	g.now, g.working = 0, 0
}
