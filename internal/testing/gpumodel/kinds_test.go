// SPDX-License-Identifier: Apache-2.0

package gpumodel

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEveryKindSaysWhereItComesFromAndWhatIsAssumed(t *testing.T) {
	require.Greater(t, len(Kinds()), 8)
	for _, name := range Kinds() {
		m, err := Load(name)
		require.NoError(t, err)
		assert.NotEmpty(t, m.Origin, name)
		assert.NotEmpty(t, m.Assumed, name)
	}
	_, err := Load("none")
	assert.ErrorContains(t, err, "100ms-late")
}

// steady is 100 W for a second, then 200 W.
type steady struct{}

func (steady) Joules(at int64) float64 {
	s := float64(at) / 1e9
	return 100*s + max(s-1, 0)*100
}

func TestACounterStepsLagsAndSamplesAsItsKindSays(t *testing.T) {
	second := int64(time.Second)
	read := func(c Counter, at int64) float64 {
		m := NewMeter(Model{Counter: c}, steady{}, 0)
		m.Energy(0)
		joules, _ := m.Energy(at)
		return joules
	}
	assert.InDelta(t, 150, read(Counter{}, second+second/4), 1e-9)
	assert.InDelta(t, 140, read(Counter{Period: 100 * time.Millisecond}, second+second/4), 1e-9, "the last step was at 1.2 s")
	assert.InDelta(t, 120, read(Counter{Period: 100 * time.Millisecond, Lag: 60 * time.Millisecond}, second+second/4), 1e-9, "that of 1.1 s can be seen")
	assert.InDelta(t, 150*0.9, read(Counter{Gain: 0.9}, second+second/4), 1e-9)
	// The load begins at 1 s, within a step from 0.95 s: the sampled last quarter has it all.
	m := NewMeter(Model{Counter: Counter{Period: 100 * time.Millisecond, Share: 0.25}}, steady{}, 50*time.Millisecond)
	first, _ := m.Energy(second * 95 / 100)
	later, _ := m.Energy(second * 105 / 100)
	assert.InDelta(t, 20, later-first, 1e-9)
	watts, _ := NewMeter(Model{Power: Power{Period: 100 * time.Millisecond}}, steady{}, 0).Instant(second + second/20)
	assert.InDelta(t, 100, watts, 1e-6, "the reading of 1 s")
	average, _ := NewMeter(Model{}, steady{}, 0).Average(second * 3 / 2)
	assert.InDelta(t, 150, average, 1e-6)
}
