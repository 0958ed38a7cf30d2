// SPDX-License-Identifier: Apache-2.0

// One goroutine judges pixels here, with the race detector ten times as slowly.
//go:build !race

package inputs

import (
	"bytes"
	"image/jpeg"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestTonedImagesAreNotColoured: one hue, or hues that follow the brightness, do not make a colour
// photograph, however strong they are; faded and yellowed ones do.
func TestTonedImagesAreNotColoured(t *testing.T) {
	for name, of := range map[string]struct {
		change   func(*scene)
		coloured bool
	}{
		"colours":              {func(s *scene) { s.saturation = 60 }, true},
		"weak colours":         {func(s *scene) { s.saturation = 35 }, true},
		"faded and yellowed":   {func(s *scene) { s.saturation, s.tone = 25, [2]float64{-10, 5} }, true},
		"grey":                 {func(*scene) {}, false},
		"grey, noise":          {func(s *scene) { s.noise = 12 }, false},
		"sepia":                {func(s *scene) { s.tone = sepia }, false},
		"sepia, noise":         {func(s *scene) { s.tone, s.noise = sepia, 12 }, false},
		"sepia, stained":       {func(s *scene) { s.tone, s.stain = sepia, true }, false},
		"cyanotype":            {func(s *scene) { s.tone = [2]float64{25, -30} }, false},
		"yellowed, faint hues": {func(s *scene) { s.tone, s.saturation = sepia, 5 }, false},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(3) {
				s := newScene(rand.New(rand.NewPCG(seed, 1)), 300)
				of.change(s)
				for _, quality := range []int{30, 95} {
					m, err := jpeg.Decode(bytes.NewReader(encodeJPEG(t, s.draw(300, 200), quality)))
					require.NoError(t, err)
					chroma := chromaOf(m, cellSide)
					assert.Equal(t, of.coloured, chroma > maxChroma, "seed %d, quality %d: %.2f", seed, quality, chroma)
				}
			}
		})
	}
}

// TestSplitTonesAreNotColoured: shadows of one hue and lights of the opposite one.
func TestSplitTonesAreNotColoured(t *testing.T) {
	m := newScene(rand.New(rand.NewPCG(1, 1)), 600).draw(600, 400)
	for i := 0; i < len(m.Pix); i += 4 {
		l := float64(m.Pix[i+1])
		m.Pix[i], m.Pix[i+2] = clamp(l+(l-128)/3), clamp(l-(l-128)/3)
	}
	assert.Less(t, chromaOf(m, cellSide), float64(maxChroma))
}

func TestTransparentPixelsHaveNoColour(t *testing.T) {
	m := newScene(rand.New(rand.NewPCG(1, 1)), 100)
	m.saturation = 60
	drawn := m.draw(100, 100)
	require.Greater(t, chromaOf(drawn, cellSide), float64(maxChroma))
	for i := 3; i < len(drawn.Pix); i += 4 {
		drawn.Pix[i] = 0
	}
	assert.Zero(t, chromaOf(drawn, cellSide))
}
