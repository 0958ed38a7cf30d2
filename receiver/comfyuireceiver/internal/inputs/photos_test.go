// SPDX-License-Identifier: Apache-2.0

// One goroutine judges pixels here, with the race detector ten times as slowly.
//go:build !race

package inputs

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"image"
	"image/color"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
)

var photoFolder = flag.String("photos", "", "a folder of colour photographs (JPEG, PNG, WebP) that are judged, too; black-and-white ones in its folder "+blackAndWhite)

// blackAndWhite is the folder, below that of the colour photographs, of those that have no colours.
const blackAndWhite = "black-and-white"

// photoChange turns a photograph, of which it has the file, into another file.
type photoChange func(t testing.TB, file []byte, m image.Image) []byte

// photoKinds are what a photograph is turned into, and the finding that it is to have, or not to have.
// A wrong finding refuses a good photograph, so it has a goal; how many are found depends on what
// photographs they are.
var photoKinds = []struct {
	name    string
	change  photoChange
	finding Finding
	applies bool
}{
	{"coloured.as_it_is", unchanged, Coloured, true},
	{"coloured.quality_10", recompressed(10), Coloured, true},
	{"coloured.grey", toned([3]float64{1, 1, 1}), Coloured, false},
	{"coloured.sepia", toned([3]float64{1.07, 0.95, 0.74}), Coloured, false},
	{"coloured.old_print", oldPrint, Coloured, false},
	{"compressed.as_it_is", unchanged, Compressed, false},
	{"compressed.quality_75", recompressed(75), Compressed, false},
	{"compressed.quality_10", recompressed(10), Compressed, true},
}

// minRightPhotos is the share of photographs, in percent, that have no wrong finding.
const minRightPhotos = 90

func unchanged(_ testing.TB, file []byte, _ image.Image) []byte { return file }

func recompressed(quality int) photoChange {
	return func(t testing.TB, _ []byte, m image.Image) []byte { return encodeJPEG(t, m, quality) }
}

// toned replaces the colours by one tone: the brightness times a factor for red, green and blue.
func toned(factors [3]float64) photoChange {
	return func(t testing.TB, _ []byte, m image.Image) []byte {
		return encodeJPEG(t, recoloured(m, func(l, _, _ float64) (red, green, blue float64) {
			return l * factors[0], l * factors[1], l * factors[2]
		}), 90)
	}
}

// oldPrint is a scan of a black-and-white print that faded: its blacks turned brown, its paper
// yellow, more towards its edges, and the scanner adds noise.
func oldPrint(t testing.TB, _ []byte, m image.Image) []byte {
	random := rand.New(rand.NewPCG(1, 10))
	return encodeJPEG(t, recoloured(m, func(l, x, y float64) (red, green, blue float64) {
		edge := max(x*x, y*y)
		grain := func() float64 { return 3 * random.NormFloat64() }
		return 70 + 0.66*l + grain(), 50 + (0.68-0.04*edge)*l + grain(), 38 - 8*edge + (0.55-0.15*edge)*l + grain()
	}), 90)
}

// recoloured draws an image again from the brightness of its pixels, and from how far, from -1 to 1,
// they are from its middle.
func recoloured(m image.Image, of func(l, x, y float64) (red, green, blue float64)) image.Image {
	b := m.Bounds()
	drawn := image.NewRGBA(image.Rect(0, 0, b.Dx(), b.Dy()))
	for y := range b.Dy() {
		for x := range b.Dx() {
			l := color.GrayModel.Convert(m.At(b.Min.X+x, b.Min.Y+y)).(color.Gray).Y
			red, green, blue := of(float64(l), 2*float64(x)/float64(b.Dx())-1, 2*float64(y)/float64(b.Dy())-1)
			drawn.SetRGBA(x, y, color.RGBA{R: clamp(red), G: clamp(green), B: clamp(blue), A: 255})
		}
	}
	return drawn
}

// photosOf are the files of a folder that are JPEG, PNG or WebP.
func photosOf(t testing.TB, folder string) (files []string) {
	t.Helper()
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	for _, e := range entries {
		if slices.Contains([]string{".jpg", ".jpeg", ".png", ".webp"}, strings.ToLower(filepath.Ext(e.Name()))) {
			files = append(files, filepath.Join(folder, e.Name()))
		}
	}
	return files
}

// generatedPhotos are scenes in colours, for a run without photographs.
func generatedPhotos(t testing.TB) string {
	t.Helper()
	folder := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(folder, blackAndWhite), 0o700))
	for seed := range uint64(3) {
		s := newScene(rand.New(rand.NewPCG(seed, 7)), 400)
		s.saturation, s.noise = 50, 1
		require.NoError(t, os.WriteFile(filepath.Join(folder, fmt.Sprintf("%d.jpg", seed)), encodeJPEG(t, s.draw(400, 300), 90), 0o600))
		s.saturation = 0
		require.NoError(t, os.WriteFile(filepath.Join(folder, blackAndWhite, fmt.Sprintf("%d.png", seed)), encodePNG(t, s.draw(400, 300)), 0o600))
	}
	return folder
}

// photoTally is how many photographs of a kind were judged rightly.
type photoTally struct {
	name       string
	applies    bool
	right, all int
}

// judge judges a photograph that is to have a finding, or not to have it.
func (p *photoTally) judge(t testing.TB, path string, file []byte, finding Finding) {
	t.Helper()
	checks := Checks{MinBytesPerPixel: minBytesPerPixel, MaxChroma: maxChroma}
	f := Measure(context.Background(), file, true, patient())
	found, why := checks.Findings(&f)
	require.Empty(t, why, path)
	p.all++
	if slices.Contains(found, finding) == p.applies {
		p.right++
		return
	}
	t.Logf("%s: %s of %d × %d: chroma %.2f, %.3f bytes per pixel", p.name, filepath.Base(path), f.Width, f.Height, f.Chroma, f.BytesPerPixel())
}

// print prints the share, which has a goal where a finding would be wrong, or where all are generated.
func (p *photoTally) print(t testing.TB, generated bool) {
	t.Helper()
	if p.all == 0 {
		return
	}
	share, name, unit := 100*float64(p.right)/float64(p.all), "input.photos."+p.name, fmt.Sprintf("%%_of_%d", p.all)
	if p.applies && !generated {
		figure.Print(name, share, unit)
		return
	}
	figure.AtLeast(name, share, unit, minRightPhotos)
	assert.GreaterOrEqual(t, share, float64(minRightPhotos), p.name)
}

// TestPhotosAreJudged judges the photographs of -photos as they are, without their colours, toned, as
// an old print, and compressed. Without the flag it draws some. make bench-input PHOTOS=FOLDER runs it.
func TestPhotosAreJudged(t *testing.T) {
	folder := *photoFolder
	if folder == "" {
		folder = generatedPhotos(t)
	}
	read := func(path string) []byte {
		file, err := os.ReadFile(path)
		require.NoError(t, err)
		return file
	}
	tallies := make([]photoTally, len(photoKinds))
	paths := photosOf(t, folder)
	require.NotEmpty(t, paths, "no JPEG, PNG or WebP in %s", folder)
	for _, path := range paths {
		file := read(path)
		m, _, err := image.Decode(bytes.NewReader(file))
		require.NoError(t, err, path)
		for i, kind := range photoKinds {
			tallies[i].name, tallies[i].applies = kind.name, kind.applies
			tallies[i].judge(t, path, kind.change(t, file, m), kind.finding)
		}
	}
	scanned := photoTally{name: "coloured.black_and_white"}
	if _, err := os.Stat(filepath.Join(folder, blackAndWhite)); err == nil {
		for _, path := range photosOf(t, filepath.Join(folder, blackAndWhite)) {
			scanned.judge(t, path, read(path), Coloured)
		}
	}
	for _, p := range append(tallies, scanned) {
		p.print(t, *photoFolder == "")
	}
}
