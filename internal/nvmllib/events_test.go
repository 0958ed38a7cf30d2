//go:build linux && cgo

package nvmllib

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/testdata/fakenvml"
)

// xids subscribes and waits until the machine's cards are registered.
func xids(t *testing.T, s *Session, machineCards []*fakenvml.Card) <-chan XIDEvent {
	t.Helper()
	events := make(chan XIDEvent, 100)
	t.Cleanup(s.SubscribeXIDs(func(e XIDEvent) { events <- e }))
	registered(t, machineCards)
	for _, c := range s.Snapshot().Cards {
		on(t, c, func(Device) {}) // behind the registration in the card's queue
	}
	return events
}

func registered(t *testing.T, cards []*fakenvml.Card) {
	t.Helper()
	before := make([]int64, len(cards))
	for i, c := range cards {
		require.Eventually(t, func() bool { return c.Calls("nvmlDeviceRegisterEvents") > before[i] }, 10*time.Second, 5*time.Millisecond)
	}
}

func next(t *testing.T, events <-chan XIDEvent) XIDEvent {
	t.Helper()
	select {
	case e := <-events:
		return e
	case <-time.After(10 * time.Second):
		t.Fatal("no event")
		return XIDEvent{}
	}
}

func TestXIDsReachTheSubscribersWithTheirCard(t *testing.T) {
	machine, cards := library.Machine(t, "h100", "l40s")
	s := acquire(t, library.Path)
	snapshot := waitFor(t, s, func(s Snapshot) bool { return len(s.Cards) == 2 })
	events := xids(t, s, cards)
	machine.Event(1, fakenvml.EventXID, 79)
	e := next(t, events)
	assert.EqualValues(t, 79, e.XID)
	assert.Same(t, snapshot.Cards[1], e.Card)
}

func TestXIDsAreWatchedAgainAfterTheDriverWasReloaded(t *testing.T) {
	machine, cards := library.Machine(t, "h100")
	s := acquire(t, library.Path)
	snapshot := waitFor(t, s, func(s Snapshot) bool { return len(s.Cards) == 1 })
	events := xids(t, s, cards)
	calls := cards[0].Calls("nvmlDeviceRegisterEvents")
	machine.LoadDriver()
	waitFor(t, s, func(s Snapshot) bool { return s.Initializations == 2 })
	require.Eventually(t, func() bool { return cards[0].Calls("nvmlDeviceRegisterEvents") > calls }, 10*time.Second, 5*time.Millisecond)
	machine.Event(0, fakenvml.EventXID, 31)
	e := next(t, events)
	assert.EqualValues(t, 31, e.XID)
	assert.Same(t, snapshot.Cards[0], e.Card)
}

func TestCardThatRefusesEventsCostsTheOthersNone(t *testing.T) {
	machine, cards := library.Machine(t, "h100", "l40s")
	cards[0].SetReturn("nvmlDeviceRegisterEvents", fakenvml.NotSupported)
	s := acquire(t, library.Path)
	waitFor(t, s, func(s Snapshot) bool { return len(s.Cards) == 2 })
	events := xids(t, s, cards)
	machine.Event(1, fakenvml.EventXID, 48)
	assert.EqualValues(t, 48, next(t, events).XID)
}
