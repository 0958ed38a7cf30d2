// SPDX-License-Identifier: Apache-2.0

package inputs

import (
	"bytes"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// waves are smooth noise: a few waves of random directions and lengths, from -1 to 1.
type waves [5]struct{ x, y, phase, strength float64 }

// newWaves makes noise whose longest wave is as long as a side.
func newWaves(random *rand.Rand, side int) (w waves) {
	sum := 0.0
	for i := range w {
		angle, length := random.Float64()*2*math.Pi, float64(side)/(1+random.Float64()*float64(3*i+1))
		w[i].x, w[i].y = math.Cos(angle)*2*math.Pi/length, math.Sin(angle)*2*math.Pi/length
		w[i].phase, w[i].strength = random.Float64()*2*math.Pi, 1/float64(i+1)
		sum += w[i].strength
	}
	for i := range w {
		w[i].strength /= sum
	}
	return w
}

// scene is a photograph: brightness and two colour differences as smooth noise, with grain.
type scene struct {
	luma, blue, red waves
	random          *rand.Rand
	// saturation is the strength of its colours; tone is added to them, in proportion to the
	// brightness; stain adds the tone more in some places than in others. noise is of each channel.
	saturation, noise float64
	tone              [2]float64
	stain             bool
}

// sepia is about the direction of sepia toning, as Cb and Cr.
var sepia = [2]float64{-28, 15}

func newScene(random *rand.Rand, side int) *scene {
	return &scene{luma: newWaves(random, side), blue: newWaves(random, side), red: newWaves(random, side), random: random, noise: 2}
}

// at is the noise at a place.
func (w *waves) at(x, y float64) (sum float64) {
	for i := range w {
		sum += w[i].strength * math.Sin(w[i].x*x+w[i].y*y+w[i].phase)
	}
	return sum
}

// grid is how far apart, in pixels, the noise is computed; between, it is interpolated.
const grid = 8

func plane(w *waves, width, height int) (values []float64, across int) {
	across = width/grid + 2
	for j := range height/grid + 2 {
		for i := range across {
			values = append(values, w.at(float64(i*grid), float64(j*grid)))
		}
	}
	return values, across
}

func between(values []float64, across, x, y int) float64 {
	at, fx, fy := y/grid*across+x/grid, float64(x%grid)/grid, float64(y%grid)/grid
	upper := values[at]*(1-fx) + values[at+1]*fx
	lower := values[at+across]*(1-fx) + values[at+across+1]*fx
	return upper*(1-fy) + lower*fy
}

func (s *scene) draw(width, height int) *image.RGBA {
	m := image.NewRGBA(image.Rect(0, 0, width, height))
	luma, across := plane(&s.luma, width, height)
	blue, _ := plane(&s.blue, width, height)
	red, _ := plane(&s.red, width, height)
	var grain [4096]float64
	for i := range grain {
		grain[i] = s.random.NormFloat64() * s.noise
	}
	n := 0
	for y := range height {
		for x := range width {
			l := 125 + 100*between(luma, across, x, y)
			strength := l / 125
			b, r := between(blue, across, x, y), between(red, across, x, y)
			if s.stain {
				strength *= 1 + b
			}
			cb, cr := s.saturation*b+s.tone[0]*strength, s.saturation*r+s.tone[1]*strength
			n = (n*5 + 7919*y + 3*x + 1) % (len(grain) - 3)
			m.SetRGBA(x, y, color.RGBA{
				R: clamp(l + 1.402*cr + grain[n]), G: clamp(l - 0.344*cb - 0.714*cr + grain[n+1]), B: clamp(l + 1.772*cb + grain[n+2]), A: 255,
			})
		}
	}
	return m
}

func clamp(v float64) uint8 { return uint8(min(max(v, 0), 255)) }

// encodeJPEG makes a file of a quality of 1 to 100.
func encodeJPEG(t testing.TB, m image.Image, quality int) []byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, jpeg.Encode(&b, m, &jpeg.Options{Quality: quality}))
	return b.Bytes()
}

func encodePNG(t testing.TB, m image.Image) []byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, (&png.Encoder{CompressionLevel: png.BestSpeed}).Encode(&b, m))
	return b.Bytes()
}

// gray is an image in shades of grey, with one channel.
func gray(m *image.RGBA) *image.Gray {
	g := image.NewGray(m.Rect)
	for i := range g.Pix {
		g.Pix[i] = m.Pix[4*i+1]
	}
	return g
}
