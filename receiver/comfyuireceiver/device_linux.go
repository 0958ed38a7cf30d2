//go:build linux && cgo

package comfyuireceiver

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
)

// cardsOf tells by NVML which card a process holds. It shares the session, and the
// workers of the cards, with the nvml receivers of this process.
type cardsOf struct {
	library  string
	log      *zap.Logger
	sessions *nvml.Sessions
	session  *nvml.Session
}

func newCardsOf(library string, log *zap.Logger) *cardsOf {
	return &cardsOf{library: library, log: log, sessions: nvml.OfProcess()}
}

func (c *cardsOf) open() bool {
	session, err := c.sessions.Acquire(c.library, c.log)
	if err != nil {
		c.log.Warn("the card that ComfyUI uses cannot be told", zap.Error(err))
		return false
	}
	c.session = session
	return true
}

// wait waits for the session's first look at the machine.
func (c *cardsOf) wait(most time.Duration) {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-c.session.Looked():
	case <-timer.C:
	}
}

// simulated says whether the cards are those of the test library.
func (c *cardsOf) simulated() bool { return c.session.Snapshot().Simulated }

func (c *cardsOf) close() { c.sessions.Release(context.Background()) }

// cardPatience is how long a card is waited for; one that hangs tells nothing.
const cardPatience = 2 * time.Second

// of is the hw.id of the card, or of the MIG device, that a process holds; empty
// if none can be told.
func (c *cardsOf) of(ctx context.Context, pid int) (hwID string) {
	ctx, cancel := context.WithTimeout(ctx, cardPatience)
	defer cancel()
	snapshot := c.session.Snapshot()
	found := make(chan string, len(snapshot.Cards))
	asked := 0
	for _, card := range snapshot.Cards {
		if card.Err() == nil && card.Submit(func() { found <- holds(card, pid) }) {
			asked++
		}
	}
	for range asked {
		select {
		case id := <-found:
			if id != "" {
				return id
			}
		case <-ctx.Done():
			return ""
		}
	}
	return ""
}

// at is the hw.id of the card with an NVML index; empty if there is none.
func (c *cardsOf) at(index int) (hwID string) {
	for _, card := range c.session.Snapshot().Cards {
		if card.Err() == nil && card.Identity().Index == index {
			return card.Identity().UUID
		}
	}
	return ""
}

// holds asks one card; it runs on the card's worker.
func holds(card *nvml.Card, pid int) string {
	d := card.Device()
	all, err := d.Processes(nil)
	if err != nil {
		return ""
	}
	for _, p := range all {
		if p.PID != uint32(pid) {
			continue
		}
		if p.InMIG {
			if uuid := nvml.MIGUUID(d, p.GPUInstance, p.ComputeInstance); uuid != "" {
				return uuid
			}
		}
		return card.Identity().UUID
	}
	return ""
}
