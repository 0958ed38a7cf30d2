// SPDX-License-Identifier: Apache-2.0

package inputs

import (
	"image"
	"image/color"
	"math"
)

const (
	// maxSamples bounds the pixels that are read of an image, in each direction.
	maxSamples = 256
	// cellSide is how many samples that are pixels, in each direction, are averaged: the noise of
	// scanners and of compression has no hue that lasts.
	cellSide = 4
	// tones is into how many steps of brightness a tone is divided.
	tones = 16
	// neutral is Cb and Cr of grey.
	neutral = 128
	// leastHue is the mean chroma below which an image has no hue of its own.
	leastHue = 0.5
)

// cell is the mean of some samples: luma (0 to 255), and Cb and Cr beyond grey (-128 to 127), as in
// JPEG (ITU-T T.871).
type cell struct{ y, cb, cr float64 }

func (c cell) chroma() float64 { return math.Hypot(c.cb, c.cr) }

// chromaOf is how coloured an image is: the root mean square of the chroma of at most 256 × 256 of its
// pixels, in steps of 8-bit Cb and Cr, after one tone was removed. A black-and-white photograph that
// is sepia, toned, yellowed or stained has chroma, too, and is not coloured: its chroma follows from
// its brightness, or has one hue. So of each pixel counts how far it is from
//   - the mean chroma of all pixels that are about as bright, or from
//   - the colours of the image's mean hue, of any strength,
//
// whichever is nearer. Both are near 0 for a toned image, and neither is for one with several hues.
// An image whose colours all have one hue counts as toned. The squares have the colours of a small
// part count, as in photographs of something coloured before a grey sky or wall.
//
// Of the samples, side × side are averaged before.
func chromaOf(m image.Image, side int) float64 {
	cells := cellsOf(m, side)
	if len(cells) == 0 {
		return 0
	}
	tone, hue := toneOf(cells), hueOf(cells)
	squares := 0.0
	for _, c := range cells {
		d := min(tone.distance(c), hue.distance(c))
		squares += d * d
	}
	return math.Sqrt(squares / float64(len(cells)))
}

// meanTone is the mean chroma of an image's pixels by their brightness.
type meanTone [tones]cell

func toneOf(cells []cell) (t meanTone) {
	var counts [tones]float64
	for _, c := range cells {
		i := toneStep(c)
		t[i].cb += c.cb
		t[i].cr += c.cr
		counts[i]++
	}
	for i := range t {
		t[i].cb /= max(counts[i], 1)
		t[i].cr /= max(counts[i], 1)
	}
	return t
}

// distance is from the mean chroma of what is as bright.
func (t *meanTone) distance(c cell) float64 {
	of := t[toneStep(c)]
	return math.Hypot(c.cb-of.cb, c.cr-of.cr)
}

func toneStep(c cell) int { return min(max(int(c.y)*tones/256, 0), tones-1) }

// meanHue is the direction of an image's mean chroma, of length 1; 0 if it has none.
type meanHue struct{ cb, cr float64 }

func hueOf(cells []cell) meanHue {
	var mean cell
	for _, c := range cells {
		mean.cb += c.cb / float64(len(cells))
		mean.cr += c.cr / float64(len(cells))
	}
	strength := mean.chroma()
	if strength < leastHue {
		return meanHue{}
	}
	return meanHue{mean.cb / strength, mean.cr / strength}
}

// distance is from the half-line of the hue, from grey on.
func (h meanHue) distance(c cell) float64 {
	if c.cb*h.cb+c.cr*h.cr <= 0 {
		return c.chroma()
	}
	return math.Abs(c.cb*h.cr - c.cr*h.cb)
}

// cellsOf samples an image, and averages side × side samples. What is rather transparent is left out.
func cellsOf(m image.Image, side int) []cell {
	b := m.Bounds()
	columns, rows := min(b.Dx(), maxSamples), min(b.Dy(), maxSamples)
	if columns <= 0 || rows <= 0 {
		return nil
	}
	across, below := ceil(columns, side), ceil(rows, side)
	cells, counts := make([]cell, across*below), make([]float64, across*below)
	for j := range rows {
		y := b.Min.Y + placeOf(j, b.Dy(), rows)
		for i := range columns {
			x := b.Min.X + placeOf(i, b.Dx(), columns)
			luma, cb, cr, visible := sample(m, x, y)
			if !visible {
				continue
			}
			at := j/side*across + i/side
			cells[at].y += float64(luma)
			cells[at].cb += float64(cb) - neutral
			cells[at].cr += float64(cr) - neutral
			counts[at]++
		}
	}
	seen := cells[:0]
	for i, c := range cells {
		if n := counts[i]; n > 0 {
			seen = append(seen, cell{c.y / n, c.cb / n, c.cr / n})
		}
	}
	return seen
}

// sample is one pixel.
func sample(m image.Image, x, y int) (luma, cb, cr uint8, visible bool) {
	if m, ok := m.(*image.YCbCr); ok {
		c := m.YCbCrAt(x, y)
		return c.Y, c.Cb, c.Cr, true
	}
	r, g, b, a := m.At(x, y).RGBA()
	if a < 1<<15 {
		return 0, 0, 0, false
	}
	luma, cb, cr = color.RGBToYCbCr(uint8(r*0xffff/a>>8), uint8(g*0xffff/a>>8), uint8(b*0xffff/a>>8))
	return luma, cb, cr, true
}
