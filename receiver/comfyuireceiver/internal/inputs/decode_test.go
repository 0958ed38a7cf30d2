// SPDX-License-Identifier: Apache-2.0

package inputs

import (
	"bytes"
	"compress/zlib"
	"context"
	"encoding/binary"
	"hash/crc32"
	"image"
	"image/color"
	"image/gif"
	"image/png"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/image/bmp"
	"golang.org/x/image/tiff"
)

// patient are the product's limits with more time, for a busy test machine.
func patient() Limits { return Limits{Memory: maxMemory, Time: 20 * time.Second, Now: time.Now} }

// chunk is one of a PNG's.
func chunk(kind string, data []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(data)))
	b = append(append(b, kind...), data...)
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b[4:]))
}

// zeros is a PNG in 8-bit RGB that claims a size, with so many bytes of zeros, compressed.
func zeros(t testing.TB, width, height uint32, bytesOfZeros int) []byte {
	t.Helper()
	header := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, width), height)
	header = append(header, 8, 2, 0, 0, 0)
	return bytes.Join([][]byte{[]byte("\x89PNG\r\n\x1a\n"), chunk("IHDR", header), chunk("IDAT", deflated(t, bytesOfZeros)), chunk("IEND", nil)}, nil)
}

// deflated are so many bytes of zeros, compressed.
func deflated(t testing.TB, bytesOfZeros int) []byte {
	t.Helper()
	var data bytes.Buffer
	z := zlib.NewWriter(&data)
	for block := make([]byte, 1<<20); bytesOfZeros > 0; bytesOfZeros -= len(block) {
		_, err := z.Write(block[:min(len(block), bytesOfZeros)])
		require.NoError(t, err)
	}
	require.NoError(t, z.Close())
	return data.Bytes()
}

// twoHeaders is a PNG with a further header that claims 32 GiB for two rows.
func twoHeaders(t testing.TB) []byte {
	t.Helper()
	file := zeros(t, 100, 100, 30100)
	at := bytes.Index(file, []byte("IDAT")) - 4
	header := append(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, 1<<31-1), 100), 16, 6, 0, 0, 0)
	return slices.Concat(file[:at], chunk("IHDR", header), file[at:])
}

// animation is a GIF of many frames.
func animation(t testing.TB, frames int) []byte {
	t.Helper()
	palette := color.Palette{color.Gray{}, color.RGBA{R: 255, A: 255}, color.RGBA{G: 255, A: 255}, color.RGBA{B: 255, A: 255}}
	g := &gif.GIF{}
	for range frames {
		m := image.NewPaletted(image.Rect(0, 0, 400, 300), palette)
		for i := range m.Pix {
			m.Pix[i] = uint8(i / 100 % 4)
		}
		g.Image, g.Delay = append(g.Image, m), append(g.Delay, 1)
	}
	var b bytes.Buffer
	require.NoError(t, gif.EncodeAll(&b, g))
	return b.Bytes()
}

// manyPalettes is a PNG of a pixel with so many palettes. The standard library reads the header up to
// tRNS, and does not see the others.
func manyPalettes(t testing.TB, palettes int) []byte {
	t.Helper()
	palette := chunk("PLTE", make([]byte, 3*256))
	return slices.Concat([]byte("\x89PNG\r\n\x1a\n"), chunk("IHDR", []byte{0, 0, 0, 1, 0, 0, 0, 1, 8, pngPalette, 0, 0, 0}), palette, chunk("tRNS", []byte{9}),
		bytes.Repeat(palette, palettes-1), chunk("IDAT", deflated(t, 2)), chunk("IEND", nil))
}

// bombs are files that cost, or claim to cost, far more than they are long.
func bombs(t testing.TB) map[string][]byte {
	random := rand.New(rand.NewPCG(5, 5))
	s := newScene(random, 600)
	s.saturation = 50
	whole := encodeJPEG(t, s.draw(600, 400), 90)
	return map[string][]byte{
		"enormous PNG":          zeros(t, 1<<30, 1<<30, 1<<20),
		"100 megapixels of PNG": zeros(t, 10000, 10000, 3<<20),
		"PNG, too little data":  zeros(t, 4000, 3000, 1<<20),
		"truncated JPEG":        whole[:len(whole)/2],
		"truncated PNG":         encodePNG(t, s.draw(600, 400))[:20000],
		"a second header":       twoHeaders(t),
		"truncated header":      whole[:10],
		"endless comments":      append([]byte("GIF89a\x01\x00\x01\x00\x00\x00\x00"), bytes.Repeat([]byte("\x21\xfe\x01x\x00"), 1<<20)...),
		"endless JPEG segments": append([]byte("\xff\xd8"), bytes.Repeat([]byte("\xff\xfe\x00\x02"), 1<<20)...),
		"scans of nothing":      scansOf(18000, 512),
		"end-of-band runs":      endOfBandRuns(50),
		"many palettes":         manyPalettes(t, 30000),
		"not an image":          []byte("<svg/>"),
		"empty":                 {},
	}
}

// allocated is how many bytes f allocates.
func allocated(f func()) int64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return int64(after.TotalAlloc - before.TotalAlloc)
}

// beside is what a decoder allocates beside an image, in bytes: buffers, tables, samples.
const beside = 2 << 20

func TestBombsAreNotJudgedAndCostLittle(t *testing.T) {
	for name, file := range bombs(t) {
		t.Run(name, func(t *testing.T) {
			var f Facts
			cost := allocated(func() { f = Measure(context.Background(), file, true, patient()) })
			assert.Contains(t, []string{Format, Memory}, f.Unjudged)
			assert.False(t, f.Measured)
			assert.LessOrEqual(t, cost, int64(maxMemory+beside))
			assert.Equal(t, len(file), f.Bytes)
		})
	}
}

func TestOfAnAnimationTheFirstFrameCounts(t *testing.T) {
	file := animation(t, 200)
	cost := allocated(func() {
		f := Measure(context.Background(), file, true, patient())
		assert.Equal(t, Facts{Width: 400, Height: 300, Bytes: len(file), Chroma: f.Chroma, Measured: true}, f)
	})
	assert.Less(t, cost, int64(beside))
}

// TestDecodingEndsWithItsTime: the clock passes the limit while the file is read.
func TestDecodingEndsWithItsTime(t *testing.T) {
	s := newScene(rand.New(rand.NewPCG(1, 1)), 1000)
	m := s.draw(800, 600)
	var asBMP, asTIFF bytes.Buffer
	require.NoError(t, bmp.Encode(&asBMP, m))
	require.NoError(t, tiff.Encode(&asTIFF, m, &tiff.Options{Compression: tiff.Deflate}))
	for name, file := range map[string][]byte{
		"jpeg": encodeJPEG(t, m, 95), "png": encodePNG(t, m), "bmp": asBMP.Bytes(), "tiff": asTIFF.Bytes(), "gif": animation(t, 1),
	} {
		t.Run(name, func(t *testing.T) {
			passed, reads := time.Duration(0), 0
			limits := Limits{Memory: maxMemory, Time: time.Second, Now: func() time.Time {
				reads++
				passed += 150 * time.Millisecond
				return time.Unix(0, 0).Add(passed)
			}}
			f := Measure(context.Background(), file, true, limits)
			if name == "gif" { // so small that it is read at once
				assert.True(t, f.Measured)
				return
			}
			assert.Equal(t, Time, f.Unjudged)
			assert.False(t, f.Measured)
			assert.Equal(t, 8, reads, "it is asked once a read, and reads no more")
		})
	}
}

func TestDecodingEndsWithTheReceiver(t *testing.T) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	f := Measure(ended, encodePNG(t, image.NewGray(image.Rect(0, 0, 9, 9))), true, patient())
	assert.Equal(t, Facts{Bytes: f.Bytes, Unjudged: Stopping}, f)
}

// TestMemoryIsBoundedBeforehand compares the bounds with what the decoders allocate.
func TestMemoryIsBoundedBeforehand(t *testing.T) {
	s := newScene(rand.New(rand.NewPCG(1, 1)), 600)
	s.saturation = 40
	m := s.draw(600, 450)
	deep := image.NewNRGBA64(m.Rect)
	paletted := image.NewPaletted(m.Rect, color.Palette{color.Black, color.White, color.RGBA{R: 255, A: 255}})
	var asBMP, asTIFF, strips, asGIF bytes.Buffer
	require.NoError(t, bmp.Encode(&asBMP, m))
	require.NoError(t, tiff.Encode(&asTIFF, m, nil))
	require.NoError(t, tiff.Encode(&strips, m, &tiff.Options{Compression: tiff.Deflate}))
	require.NoError(t, gif.Encode(&asGIF, paletted, nil))
	translucent := *m
	translucent.Pix = bytes.Clone(m.Pix)
	translucent.Pix[3] = 200
	for name, file := range map[string][]byte{
		"jpeg": encodeJPEG(t, m, 90), "png": encodePNG(t, m), "png with transparency": encodePNG(t, &translucent), "png of 16 bits": encodePNG(t, deep),
		"png with a palette": encodePNG(t, paletted), "bmp": asBMP.Bytes(), "tiff": asTIFF.Bytes(), "tiff, deflated": strips.Bytes(), "gif": asGIF.Bytes(),
	} {
		t.Run(name, func(t *testing.T) {
			kind := kindOf(file)
			from := func() *limited {
				return &limited{ctx: context.Background(), from: bytes.NewReader(file), now: time.Now, end: time.Now().Add(time.Hour)}
			}
			header, err := configOf(kind, from())
			require.NoError(t, err)
			bound := memoryOf(kind, file, header)
			cost := allocated(func() {
				if kind == kindPNG {
					_, err = samplePNG(from(), header)
				} else {
					_, err = decode(kind, from())
				}
				assert.NoError(t, err)
			})
			if !underRace { // which has compilers allocate more
				assert.LessOrEqual(t, cost, bound+beside/4)
			}
			assert.LessOrEqual(t, bound, 6*cost, "the bound is not far away")
			f := Measure(context.Background(), file, true, Limits{Memory: bound - 1, Time: time.Hour, Now: time.Now})
			assert.Equal(t, Memory, f.Unjudged)
			assert.Equal(t, 600, f.Width)
		})
	}
}

// TestMemoryOfWebPIsBoundedBeforehand, which Go does not write: those of the decoder's own tests.
func TestMemoryOfWebPIsBoundedBeforehand(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(asked(t, "list", "-m", "-f", "{{.Dir}}", "golang.org/x/image"), "testdata", "*.webp"))
	require.NoError(t, err)
	require.NotEmpty(t, files, "a module's archive has its test data")
	lossy := 0
	for _, name := range files {
		file, err := os.ReadFile(name)
		require.NoError(t, err)
		header, err := configOf(kindWebP, limitedOf(file))
		require.NoError(t, err)
		bound := memoryOf(kindWebP, file, header)
		cost := allocated(func() {
			_, err := decode(kindWebP, limitedOf(file))
			assert.NoError(t, err)
		})
		const tables = 256 << 10
		assert.LessOrEqual(t, cost, bound+tables, name)
		if !isLossy(file) {
			continue
		}
		lossy++
		// With metadata, as cameras write it, the pixels are in a later chunk.
		extended := []byte("VP8X\x0a\x00\x00\x00\x08\x00\x00\x00")
		for _, side := range []int{header.Width - 1, header.Height - 1} {
			extended = append(extended, byte(side), byte(side>>8), byte(side>>16))
		}
		file = slices.Concat(file[:12], extended, []byte("EXIF\x01\x00\x00\x00x\x00"), file[12:])
		binary.LittleEndian.PutUint32(file[4:], uint32(len(file)-8))
		assert.True(t, isLossy(file))
		assert.True(t, Measure(context.Background(), file, true, patient()).Measured, name)
	}
	assert.Greater(t, lossy, 3)
	assert.Less(t, lossy, len(files))
}

func TestGreyImagesAreNotDecoded(t *testing.T) {
	m := image.NewGray(image.Rect(0, 0, 3000, 2000))
	for _, file := range [][]byte{encodePNG(t, m), encodeJPEG(t, m, 50)} {
		cost := allocated(func() {
			assert.Equal(t, Facts{Width: 3000, Height: 2000, Bytes: len(file), Measured: true}, Measure(context.Background(), file, true, patient()))
		})
		assert.Less(t, cost, int64(1<<20))
	}
}

func TestWithoutColourTheHeaderIsEnough(t *testing.T) {
	file := encodeJPEG(t, newScene(rand.New(rand.NewPCG(1, 1)), 600).draw(600, 450), 90)
	cost := allocated(func() {
		assert.Equal(t, Facts{Width: 600, Height: 450, Bytes: len(file)}, Measure(context.Background(), file, false, patient()))
	})
	assert.Less(t, cost, int64(1<<20))
}

// FuzzMeasure: whatever the file, its cost is bounded, and no decoder's mistake is the receiver's.
func FuzzMeasure(f *testing.F) {
	s := newScene(rand.New(rand.NewPCG(1, 1)), 64)
	s.saturation = 40
	m := s.draw(64, 48)
	var asBMP, asTIFF bytes.Buffer
	require.NoError(f, bmp.Encode(&asBMP, m))
	require.NoError(f, tiff.Encode(&asTIFF, m, nil))
	f.Add(encodeJPEG(f, m, 80))
	f.Add(encodePNG(f, m))
	f.Add(encodePNG(f, gray(m)))
	f.Add(asBMP.Bytes())
	f.Add(asTIFF.Bytes())
	f.Add(animation(f, 2))
	f.Add([]byte("RIFF\x1a\x00\x00\x00WEBPVP8L\x0d\x00\x00\x00\x2f\x00\x00\x00\x10\x07\x10\x11\x11\x88\x88\xfe\x07\x00"))
	f.Add(zeros(f, 1<<20, 1<<20, 100))
	f.Fuzz(func(t *testing.T, file []byte) {
		const memory = 8 << 20
		var found Facts
		cost := allocated(func() {
			found = Measure(context.Background(), file, true, Limits{Memory: memory, Time: 20 * time.Second, Now: time.Now})
		})
		// The decoders of some formats allocate what a damaged header claims, up to a bound.
		if cost > 2*memory+64*int64(len(file))+16<<20 {
			t.Fatalf("%d bytes were allocated for %d", cost, len(file))
		}
		if found.Measured == (found.Unjudged != "") {
			t.Fatalf("%+v", found)
		}
		if !(found.Chroma >= 0 && found.Chroma < 256) {
			t.Fatalf("a chroma of %v", found.Chroma)
		}
		c := Checks{MinSide: 100, MaxSide: 200, MaxAspect: 2, MinBytesPerPixel: 0.1, MaxChroma: maxChroma}
		problems, _ := c.Findings(&found)
		for language, text := range c.Messages(problems, &found) {
			if text == "" || strings.Contains(text, "%!") {
				t.Fatalf("%s: %q", language, text)
			}
		}
	})
}

// TestInterlacedPNGsCountTwice: a pass at a time is decoded beside the whole.
func TestInterlacedPNGsCountTwice(t *testing.T) {
	file := zeros(t, 3000, 2000, 100)
	file[28] = 1
	binary.BigEndian.PutUint32(file[29:], crc32.ChecksumIEEE(file[12:29]))
	header, err := png.DecodeConfig(bytes.NewReader(file))
	require.NoError(t, err)
	assert.EqualValues(t, 2*4*3000*2000, memoryOf(kindPNG, file, header))
}
