// Package simulation puts the load of a photo service on the cards of the NVML
// test library, so that `make run` shows a living machine without a card: one photo
// at a time works on each card, its memory and time grow with its pixels, and
// temperature, clocks and power follow. Photos arrive at random ([New]), or come
// from a simulated ComfyUI ([NewService]).
package simulation

import (
	"context"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/testdata/fakenvml"
)

const mib = 1 << 20

// sides are the photos' longer sides in pixels, and how often each comes.
var sides = []struct {
	pixels int
	weight float64
}{{512, 4}, {680, 3}, {1024, 2}, {1280, 1}}

// Card is one simulated card at work.
type Card struct {
	card    *fakenvml.Card
	profile *fakenvml.Profile
	random  *rand.Rand

	mu          sync.Mutex
	service     bool // photos come from a ComfyUI
	pid         int  // of the process that holds the memory; 0: none is shown
	temperature float64
	held        int64 // memory in MiB that the allocator keeps after a photo
	busyUntil   time.Time
	idleSince   time.Time
	working     bool
	share       int64 // of the card that the process uses, in percent
}

// New puts a card at rest. Its randomness comes from the seed alone.
func New(card *fakenvml.Card, profile *fakenvml.Profile, seed uint64) *Card {
	card.SetProcesses() // the profile's are other machines'
	return &Card{
		card: card, profile: profile, random: rand.New(rand.NewPCG(seed, uint64(card.Index()))),
		temperature: float64(profile.Values["temperature_gpu"]),
	}
}

// tick is how often the model moves.
const tick = 100 * time.Millisecond

// Run works until the context ends.
func (c *Card) Run(ctx context.Context) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			c.step(now)
		}
	}
}

// step moves the model by one tick.
func (c *Card) step(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.service:
	case c.working && now.After(c.busyUntil):
		c.rest(now)
	case !c.working && c.random.Float64() < 0.06: // a photo every other second or so
		c.work(now)
	case !c.working && c.held > 0 && now.Sub(c.idleSince) > 30*time.Second:
		c.held = 0 // the service unloads its model after half a minute
		c.setMemory(0)
	}
	c.warm()
}

func (c *Card) work(now time.Time) {
	need, lasts := demand(pick(c.random))
	c.held = min(max(c.held, need), c.room())
	c.busyUntil = now.Add(lasts)
	c.begin()
}

// demand is what a photo takes: memory in MiB and time.
func demand(side int) (mebibytes int64, lasts time.Duration) {
	megapixels := float64(side) * float64(side) / 1e6
	return int64(1800 + 2600*megapixels), time.Duration((0.25 + 0.9*megapixels) * float64(time.Second))
}

// room is the card's memory in MiB that the service may take.
func (c *Card) room() int64 {
	return c.profile.Values["memory_total"] - c.profile.Values["memory_reserved"] - c.profile.Values["memory_used"]
}

func (c *Card) begin() {
	c.working = true
	c.setMemory(c.held)
	c.load(85+c.random.Int64N(16), 20+c.random.Int64N(30), 0.55+0.35*c.random.Float64())
}

func (c *Card) rest(now time.Time) {
	c.working, c.idleSince = false, now
	c.load(0, 0, 0)
}

// pick chooses a photo's side.
func pick(random *rand.Rand) int {
	total := 0.0
	for _, s := range sides {
		total += s.weight
	}
	at := random.Float64() * total
	for _, s := range sides {
		if at -= s.weight; at < 0 {
			return s.pixels
		}
	}
	return sides[0].pixels
}

func (c *Card) setMemory(heldMiB int64) {
	c.card.Set("memory_used", (c.profile.Values["memory_used"]+heldMiB)*mib)
	c.process(heldMiB, c.share)
}

// process shows the service's process on the card, if it has one.
func (c *Card) process(heldMiB, share int64) {
	c.share = share
	if heldMiB == 0 || c.pid == 0 {
		c.card.SetProcesses()
		return
	}
	c.card.SetProcesses(fakenvml.Process{PID: c.pid, Memory: heldMiB * mib, SM: share})
}

// load sets utilisation in percent and power as a share of the limit.
func (c *Card) load(gpu, memory int64, power float64) {
	idle := c.profile.Series["power"]
	watts := idle + int64(power*float64(c.profile.Values["power_limit_enforced"]-idle))
	c.card.Step("gpu", gpu)
	c.card.Step("memory", memory)
	c.card.Step("power", watts)
	c.process(c.held, gpu)
	c.profiling(gpu, memory)
	busy := gpu > 0
	for _, clock := range []string{"graphics", "sm", "memory", "video"} {
		mhz := c.profile.Values["clock_"+clock]
		if busy {
			mhz = max(mhz, c.profile.Values["clock_max_"+clock]*9/10)
		}
		c.card.Set("clock_"+clock, mhz)
	}
	if busy {
		c.card.Set("performance_state", 2)
		c.card.Set("throttle_reasons", 0)
		c.card.Set("pcie_generation", c.profile.Values["pcie_generation_max"])
	} else {
		c.card.Set("performance_state", c.profile.Values["performance_state"])
		c.card.Set("throttle_reasons", c.profile.Values["throttle_reasons"])
		c.card.Set("pcie_generation", c.profile.Values["pcie_generation"])
	}
}

// profiling sets the GPM counters of cards that have them, in proportion to the
// load: image models keep the tensor units busy.
func (c *Card) profiling(gpu, memory int64) {
	if len(c.profile.GPM) == 0 {
		return
	}
	for id, permille := range map[int]int64{1: 1000, 2: 950, 3: 450, 5: 600, 12: 60, 13: 20, 20: 0, 21: 0} {
		c.card.SetGPM(id, gpu*permille, fakenvml.Success)
	}
	c.card.SetGPM(10, memory*1000, fakenvml.Success)
}

// warm lets the temperature follow the load with a time constant of 20 s.
func (c *Card) warm() {
	target := float64(c.profile.Values["temperature_gpu"])
	if c.working {
		target += 32
	}
	c.temperature += (target - c.temperature) * (1 - math.Exp(-tick.Seconds()/20))
	c.card.Set("temperature_gpu", int64(math.Round(c.temperature)))
}
