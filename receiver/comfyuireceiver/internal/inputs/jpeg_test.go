// SPDX-License-Identifier: Apache-2.0

package inputs

import (
	"bytes"
	"context"
	"encoding/binary"
	"image"
	"image/color"
	"image/jpeg"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// progressive makes progressive JPEGs of blocks of one colour.
type progressive struct {
	bytes.Buffer
	bits     uint64
	bitCount int
}

func (p *progressive) segment(marker byte, data ...byte) {
	p.Write([]byte{0xff, marker})
	_ = binary.Write(p, binary.BigEndian, uint16(2+len(data)))
	p.Write(data)
}

func (p *progressive) put(bits uint64, n int) {
	p.bits, p.bitCount = p.bits<<n|bits, p.bitCount+n
	for p.bitCount >= 8 {
		p.bitCount -= 8
		b := byte(p.bits >> p.bitCount)
		p.WriteByte(b)
		if b == 0xff {
			p.WriteByte(0)
		}
	}
}

func (p *progressive) align() {
	if p.bitCount > 0 {
		p.put(1<<(8-p.bitCount)-1, 8-p.bitCount)
	}
}

// difference writes one, with a code of four bits for each magnitude.
func (p *progressive) difference(d int) {
	n, bits := 0, d
	for v := max(d, -d); v > 0; v >>= 1 {
		n++
	}
	if d < 0 {
		bits = d + 1<<n - 1
	}
	p.put(uint64(n), 4)
	p.put(uint64(bits), n)
}

// progressiveJPEG is a JPEG of 4:2:0 whose blocks have the values that value returns, from -128 to
// 127, of component 0 to 2.
func progressiveJPEG(width, height, restart int, separate bool, value func(component, x, y int) int) []byte {
	p := &progressive{}
	p.Write([]byte{0xff, 0xd8})
	p.segment(markerDQT, append([]byte{0}, bytes.Repeat([]byte{8}, 64)...)...) // a coefficient is a mean
	p.segment(markerDHT, append([]byte{0, 0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)...)
	p.segment(markerDRI, byte(restart>>8), byte(restart))
	p.segment(markerSOF2, 8, byte(height>>8), byte(height), byte(width>>8), byte(width), 3, 1, 0x22, 0, 2, 0x11, 0, 3, 0x11, 0)
	scan := func(components ...int) {
		header := []byte{byte(len(components))}
		for _, c := range components {
			header = append(header, byte(c+1), 0)
		}
		p.segment(markerSOS, append(header, 0, 0, 0)...)
		across, below := (width+15)/16, (height+15)/16
		if len(components) == 1 && components[0] == 0 {
			across, below = (width+7)/8, (height+7)/8
		}
		var before [3]int
		for n := range across * below {
			if restart > 0 && n > 0 && n%restart == 0 {
				p.align()
				p.Write([]byte{0xff, byte(markerRST0 + (n/restart-1)%8)})
				before = [3]int{}
			}
			for _, c := range components {
				side := 1
				if c == 0 && len(components) > 1 {
					side = 2
				}
				for b := range side * side {
					v := value(c, n%across*side+b%side, n/across*side+b/side)
					p.difference(v - before[c])
					before[c] = v
				}
			}
		}
		p.align()
	}
	if separate {
		scan(0)
		scan(2)
		scan(1)
	} else {
		scan(0, 1, 2)
	}
	p.Write([]byte{0xff, markerEOI})
	return p.Bytes()
}

// beginJPEG is the beginning of a square progressive JPEG of 4:4:4, whose components have these ids.
func beginJPEG(side int, ids string) *progressive {
	p := &progressive{}
	p.Write([]byte{0xff, 0xd8})
	p.segment(markerDQT, append([]byte{0}, bytes.Repeat([]byte{8}, 64)...)...)
	p.segment(markerSOF2, 8, byte(side>>8), byte(side), byte(side>>8), byte(side), 3, ids[0], 0x11, 0, ids[1], 0x11, 0, ids[2], 0x11, 0)
	return p
}

// scansOf is a JPEG with so many scans of components, which have no data.
func scansOf(side, scans int, components ...byte) []byte {
	p := beginJPEG(side, "\x01\x02\x03")
	p.segment(markerDHT, append([]byte{0, 1}, make([]byte, 16)...)...) // 0 is a difference of 0
	for range scans {
		header := []byte{byte(len(components))}
		for _, c := range components {
			header = append(header, c, 0)
		}
		p.segment(markerSOS, append(header, 0, 0, 0)...)
	}
	return p.Bytes()
}

// endOfBandRuns is a JPEG in RGB with so many scans, of which each says in four bytes that 50,625
// blocks have nothing.
func endOfBandRuns(scans int) []byte {
	p := beginJPEG(1800, "RGB")
	p.segment(markerDHT, append(append([]byte{0x10, 1}, make([]byte, 15)...), 0xe0)...)
	for range scans {
		p.segment(markerSOS, 1, 'R', 0, 1, 63, 0)
		for range 2 {
			p.put(0, 1)
			p.put(1<<14-1, 14)
		}
		p.align()
	}
	return p.Bytes()
}

// oneBit is a JPEG whose blocks have a bit each, in one scan.
func oneBit(side int) []byte {
	return append(scansOf(side, 1, 1, 2, 3), make([]byte, side/8*side/8*3/8+1)...)
}

// TestScansAreOfTheFramesComponents, each once (T.81, B.2.3).
func TestScansAreOfTheFramesComponents(t *testing.T) {
	for name, components := range map[string][]byte{"none": {}, "another": {4}, "one twice": {1, 1}, "one again": {1, 2, 1}, "too many": {1, 2, 3, 3}} {
		t.Run(name, func(t *testing.T) {
			file := append(scansOf(8, 1, components...), 0)
			_, err := sampleJPEG(limitedOf(file), headerOf(file))
			require.ErrorIs(t, err, errJPEG)
		})
	}
	file := append(scansOf(8, 1, 1, 2, 3), 0)
	_, err := sampleJPEG(limitedOf(file), headerOf(file))
	require.NoError(t, err)
	again := scansOf(8, 1, 1, 2)
	again = slices.Concat(again, []byte{0}, scansOf(8, 1, 1, 3)[len(scansOf(8, 0)):], []byte{0})
	_, err = sampleJPEG(limitedOf(again), headerOf(again))
	require.ErrorIs(t, err, errJPEG, "one that is read already")
}

// TestScansEndWithTheirTime, though they need no further data.
func TestScansEndWithTheirTime(t *testing.T) {
	file := oneBit(2000)
	from := limitedOf(file)
	asked, began := 0, time.Now()
	from.now = func() time.Time {
		asked++
		return began
	}
	_, err := sampleJPEG(from, headerOf(file))
	require.NoError(t, err)
	assert.Greater(t, asked, 2000/8)
}

func TestProgressiveJPEGsAreReadAsTheStandardLibraryDoes(t *testing.T) {
	for _, separate := range []bool{false, true} {
		for _, size := range [][2]int{{1, 1}, {16, 16}, {100, 37}, {2500, 60}} {
			for _, restart := range []int{0, 3} {
				value := func(c, x, y int) int {
					return rand.New(rand.NewPCG(uint64(c), uint64(x<<32|y))).IntN(256) - 128
				}
				file := progressiveJPEG(size[0], size[1], restart, separate, value)
				var want *image.YCbCr
				if !separate || restart == 0 { // the standard library counts other groups there
					decoded, err := jpeg.Decode(bytes.NewReader(file))
					require.NoError(t, err)
					want = decoded.(*image.YCbCr)
				}
				got, err := sampleJPEG(limitedOf(file), headerOf(file))
				require.NoError(t, err)
				for j := range got.Rect.Dy() {
					for i := range got.Rect.Dx() {
						x, y := placeOf(i, size[0], got.Rect.Dx()), placeOf(j, size[1], got.Rect.Dy())
						c := color.YCbCr{Y: byte(value(0, x/8, y/8) + 128), Cb: byte(value(1, x/16, y/16) + 128), Cr: byte(value(2, x/16, y/16) + 128)}
						require.Equal(t, c, got.YCbCrAt(i, j), "%v at %d, %d", size, x, y)
						if want != nil {
							require.Equal(t, want.YCbCrAt(x, y), c)
						}
					}
				}
			}
		}
	}
}

// asked is what the go command answers.
func asked(t *testing.T, arguments ...string) string {
	t.Helper()
	answer, err := exec.Command("go", arguments...).Output()
	require.NoError(t, err)
	return strings.TrimSpace(string(answer))
}

// TestProgressiveJPEGsOfTheToolchain reads those that Go's tests have, of real encoders and every
// sampling: chroma is about as of the whole image, of which smaller parts are averaged where it has
// few pixels.
func TestProgressiveJPEGsOfTheToolchain(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(asked(t, "env", "GOROOT"), "src", "image", "testdata", "*.progressive.jpeg"))
	require.NoError(t, err)
	if len(files) == 0 {
		t.Skip("this toolchain has no test data")
	}
	for _, name := range files {
		if strings.Contains(name, "gray") || strings.Contains(name, "truncated") {
			continue
		}
		file, err := os.ReadFile(name)
		require.NoError(t, err)
		whole, err := jpeg.Decode(bytes.NewReader(file))
		require.NoError(t, err)
		got := Measure(context.Background(), file, true, patient())
		assert.True(t, got.Measured, name)
		assert.InDelta(t, chromaOf(whole, cellSide), got.Chroma, 0.3*chromaOf(whole, cellSide), name)
		assert.Greater(t, got.Chroma, float64(maxChroma), name)
	}
}

// TestLargeProgressiveJPEGsAreCheap, which the standard library needs 90 MiB for.
func TestLargeProgressiveJPEGsAreCheap(t *testing.T) {
	file := progressiveJPEG(4000, 3000, 0, false, func(c, x, y int) int { return (x*(1+c)/7 + y*(3-c)/5) % 60 * c / 2 })
	var f Facts
	cost := allocated(func() { f = Measure(context.Background(), file, true, patient()) })
	assert.True(t, f.Measured, f.Unjudged)
	assert.Less(t, cost, int64(2*beside))
	header, err := jpeg.DecodeConfig(bytes.NewReader(file))
	require.NoError(t, err)
	assert.LessOrEqual(t, cost, memoryOf(kindJPEG, file, header)+beside/4)
}

// FuzzJPEG: whatever the file, the reader ends, and what it reads of one that the standard library
// reads too does not have another size.
func FuzzJPEG(f *testing.F) {
	value := func(c, x, y int) int { return (x*y+c*30)%200 - 100 }
	f.Add(progressiveJPEG(20, 40, 0, false, value))
	f.Add(progressiveJPEG(20, 40, 2, true, value))
	f.Fuzz(func(t *testing.T, file []byte) {
		header, err := jpeg.DecodeConfig(bytes.NewReader(file))
		if err != nil || header.ColorModel != color.YCbCrModel || header.Width*header.Height > 1<<20 {
			return
		}
		m, err := sampleJPEG(limitedOf(file), headerOf(file))
		if err != nil {
			return
		}
		if m.Rect.Dx() != min(ceil(header.Width, blockSide), maxSamples) || m.Rect.Dy() != min(ceil(header.Height, blockSide), maxSamples) {
			t.Fatalf("%v of %d × %d", m.Rect, header.Width, header.Height)
		}
		if c := chromaOf(m, 1); !(c >= 0 && c < 256) {
			t.Fatalf("a chroma of %v", c)
		}
	})
}
