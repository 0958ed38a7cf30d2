// SPDX-License-Identifier: Apache-2.0

package inputs

import (
	"bytes"
	"context"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// pngs are images of every kind that the standard library writes, with every filter.
func pngs(t testing.TB, width, height int) (files [][]byte) {
	t.Helper()
	s := newScene(rand.New(rand.NewPCG(3, 3)), 100)
	s.saturation = 60
	m := s.draw(width, height)
	palette := make(color.Palette, 0, 200)
	for i := range cap(palette) {
		palette = append(palette, color.NRGBA{uint8(i), uint8(3 * i), uint8(7 * i), uint8(255 - i%2)})
	}
	nrgba, deep, deepOpaque := image.NewNRGBA(m.Rect), image.NewNRGBA64(m.Rect), image.NewRGBA64(m.Rect)
	all := []image.Image{m, nrgba, deep, deepOpaque}
	for _, n := range []int{2, 4, 16, 200} {
		all = append(all, image.NewPaletted(m.Rect, palette[:n]))
	}
	for _, to := range all[1:] {
		draw.Draw(to.(draw.Image), m.Rect, m, image.Point{}, draw.Src)
	}
	nrgba.Pix[3], deep.Pix[6] = 0, 100
	for _, m := range all {
		for _, level := range []png.CompressionLevel{png.BestSpeed, png.NoCompression, png.BestCompression} {
			var b bytes.Buffer
			require.NoError(t, (&png.Encoder{CompressionLevel: level}).Encode(&b, m))
			files = append(files, b.Bytes())
		}
	}
	return files
}

func limitedOf(file []byte) *limited {
	return &limited{ctx: context.Background(), from: bytes.NewReader(file), now: time.Now, end: time.Now().Add(time.Minute)}
}

// headerOf is a file's header; zero if it has none.
func headerOf(file []byte) image.Config {
	header, _ := configOf(kindOf(file), limitedOf(file))
	return header
}

// compare compares the samples of a PNG with those of the standard library's image.
func compare(t *testing.T, file []byte) {
	t.Helper()
	want, err := png.Decode(bytes.NewReader(file))
	require.NoError(t, err)
	got, err := samplePNG(limitedOf(file), headerOf(file))
	require.NoError(t, err)
	b := want.Bounds()
	for j := range got.Rect.Dy() {
		for i := range got.Rect.Dx() {
			x, y := placeOf(i, b.Dx(), got.Rect.Dx()), placeOf(j, b.Dy(), got.Rect.Dy())
			c := color.NRGBAModel.Convert(want.At(x, y)).(color.NRGBA)
			if g := got.NRGBAAt(i, j); g != c && c.A != 0 {
				t.Fatalf("%d, %d is %v, not %v", x, y, g, c)
			}
		}
	}
}

func TestPNGsAreReadAsTheStandardLibraryDoes(t *testing.T) {
	for _, size := range [][2]int{{61, 47}, {1, 1}, {270, 30}, {7, 300}} {
		for _, file := range pngs(t, size[0], size[1]) {
			compare(t, file)
		}
	}
}

// FuzzPNG: what the standard library reads is read alike, and nothing else is taken for an image of
// another size.
func FuzzPNG(f *testing.F) {
	for _, file := range pngs(f, 13, 5) {
		f.Add(file)
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		header, err := png.DecodeConfig(bytes.NewReader(file))
		if err != nil || header.Width*header.Height > 1<<20 || isInterlaced(file) {
			return
		}
		if header.ColorModel == color.GrayModel || header.ColorModel == color.Gray16Model {
			return // not decoded
		}
		if _, err := png.Decode(bytes.NewReader(file)); err != nil {
			_, _ = samplePNG(limitedOf(file), headerOf(file))
			return
		}
		if bytes.Contains(file, []byte("tRNS")) && header.ColorModel != nil {
			if _, isPalette := header.ColorModel.(color.Palette); !isPalette {
				_, _ = samplePNG(limitedOf(file), headerOf(file)) // a transparent colour of RGB is not looked for
				return
			}
		}
		compare(t, file)
	})
}
