// SPDX-License-Identifier: Apache-2.0

package inputs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"image/color"
	"io"

	"github.com/klauspost/compress/zlib"
)

// pngReader reads a PNG that is not interlaced row by row, so that it needs the memory of two rows,
// and keeps the samples alone. The standard library decodes the whole: 12 megapixels in RGB are
// 46 MiB, in 16 bits 92 MiB, and last twice as long. (PNG, third edition, W3C.)
type pngReader struct {
	from          *limited
	width, height int
	// depth is the bits of a sample, channels the samples of a pixel.
	depth, channels int
	palette         []color.NRGBA
	// hasColours is true after PLTE, of which a PNG has one.
	hasColours bool
	// left is what is not read of the present chunk of data, in bytes.
	left uint32
}

// Colour types of PNG.
const (
	pngRGB     = 2
	pngPalette = 3
	pngGreyA   = 4
	pngRGBA    = 6
)

const (
	pngSignature = 8
	// pngHeader is the length of IHDR's data, pngFrame that of a chunk's length and type, and pngCRC
	// of what follows its data.
	pngHeader = 13
	pngFrame  = 8
	pngCRC    = 4
	// pngInterlace is where a file says whether it is interlaced.
	pngInterlace = pngSignature + pngFrame + 12
)

var errPNG = errors.New("the PNG is damaged, or of an unknown kind")

// pngMemory is what [pngReader] allocates for a PNG, in bytes.
func pngMemory(header image.Config) int64 {
	const tables = 256 << 10 // of zlib, and the samples
	return 2*8*int64(header.Width) + 4*maxSamples*maxSamples + tables
}

// samplePNG reads at most 256 × 256 pixels of a PNG, of which header is known: a further one does not
// count.
func samplePNG(from *limited, header image.Config) (*image.NRGBA, error) {
	r := &pngReader{from: from, width: header.Width, height: header.Height}
	if err := r.header(); err != nil {
		return nil, err
	}
	z, err := zlib.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("read the data: %w", err)
	}
	pixel := max(r.depth*r.channels/8, 1)
	length := (r.width*r.depth*r.channels + 7) / 8
	row, before := make([]byte, 1+length), make([]byte, 1+length)
	columns, rows := min(r.width, maxSamples), min(r.height, maxSamples)
	m := image.NewNRGBA(image.Rect(0, 0, columns, rows))
	next := 0
	for y := range r.height {
		if err := from.expired(); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(z, row); err != nil {
			return nil, fmt.Errorf("read row %d: %w", y, err)
		}
		if err := unfilter(row[0], row[1:], before[1:], pixel); err != nil {
			return nil, err
		}
		if y == placeOf(next, r.height, rows) {
			for i := range columns {
				m.SetNRGBA(i, next, r.at(row[1:], placeOf(i, r.width, columns)))
			}
			if next++; next == rows {
				break
			}
		}
		row, before = before, row
	}
	return m, nil
}

// placeOf is which of all rows or columns the i-th of n samples is: the middle of its part.
func placeOf(i, all, n int) int { return (2*i + 1) * all / (2 * n) }

// header reads what comes before the data.
func (r *pngReader) header() error {
	if _, err := io.CopyN(io.Discard, r.from, pngSignature); err != nil {
		return err
	}
	for {
		kind, err := r.chunk()
		switch {
		case err != nil:
			return err
		case kind == "IDAT":
			return r.valid()
		case kind == "IHDR" && r.left == pngHeader:
			err = r.dimensions()
		case kind == "PLTE" && r.left <= 3*256:
			err = r.colours()
		case kind == "tRNS" && r.left <= 256:
			err = r.transparency()
		}
		if err != nil {
			return err
		}
		if _, err := io.CopyN(io.Discard, r.from, int64(r.left)+pngCRC); err != nil {
			return err
		}
	}
}

// chunk begins a chunk; what it holds is left to be read.
func (r *pngReader) chunk() (kind string, err error) {
	var frame [pngFrame]byte
	_, err = io.ReadFull(r.from, frame[:])
	r.left = binary.BigEndian.Uint32(frame[:])
	return string(frame[4:]), err
}

// data reads a chunk's data.
func (r *pngReader) data() ([]byte, error) {
	data := make([]byte, r.left)
	_, err := io.ReadFull(r.from, data)
	r.left = 0
	return data, err
}

func (r *pngReader) dimensions() error {
	data, err := r.data()
	if err != nil {
		return err
	}
	if int(binary.BigEndian.Uint32(data)) != r.width || int(binary.BigEndian.Uint32(data[4:])) != r.height {
		return errPNG
	}
	r.depth = int(data[8])
	r.channels = map[byte]int{pngRGB: 3, pngPalette: 1, pngGreyA: 2, pngRGBA: 4}[data[9]]
	if data[9] == pngPalette {
		r.palette = []color.NRGBA{}
	}
	return nil
}

func (r *pngReader) colours() error {
	if r.hasColours {
		return errPNG
	}
	r.hasColours = true
	data, err := r.data()
	if err != nil || r.palette == nil {
		return err
	}
	for ; len(data) >= 3; data = data[3:] {
		r.palette = append(r.palette, color.NRGBA{data[0], data[1], data[2], 255})
	}
	return nil
}

func (r *pngReader) transparency() error {
	data, err := r.data()
	for i := range min(len(data), len(r.palette)) {
		r.palette[i].A = data[i]
	}
	return err
}

// valid reports an error if the header is not one of a known kind.
func (r *pngReader) valid() error {
	isDeep := r.depth == 8 || r.depth == 16
	if r.palette != nil {
		isDeep = r.depth == 1 || r.depth == 2 || r.depth == 4 || r.depth == 8
	}
	if !isDeep || r.channels == 0 || r.width <= 0 || r.height <= 0 {
		return errPNG
	}
	return nil
}

// Read implements [io.Reader] for the data of all chunks.
func (r *pngReader) Read(p []byte) (int, error) {
	for r.left == 0 {
		if _, err := io.CopyN(io.Discard, r.from, pngCRC); err != nil {
			return 0, err
		}
		switch kind, err := r.chunk(); {
		case err != nil:
			return 0, err
		case kind != "IDAT":
			return 0, io.EOF
		}
	}
	n, err := r.from.Read(p[:min(len(p), int(r.left))])
	r.left -= uint32(n)
	return n, err
}

// at is a pixel of a row.
func (r *pngReader) at(row []byte, x int) color.NRGBA {
	if r.palette != nil {
		bit := x * r.depth
		i := int(row[bit/8]) >> (8 - r.depth - bit%8) & (1<<r.depth - 1)
		if i >= len(r.palette) {
			return color.NRGBA{A: 255} // as decoders do
		}
		return r.palette[i]
	}
	size := r.depth / 8 // of 16 bits, the first 8 count
	at := x * r.channels * size
	c := color.NRGBA{R: row[at], G: row[at], B: row[at], A: 255}
	if r.channels >= 3 {
		c.G, c.B = row[at+size], row[at+2*size]
	}
	if r.channels == 2 || r.channels == 4 {
		c.A = row[at+(r.channels-1)*size]
	}
	return c
}

// unfilter restores a row; before is the one above, and pixel the distance to the left, in bytes.
func unfilter(filter byte, row, before []byte, pixel int) error {
	before = before[:len(row)]
	switch filter {
	case 0:
	case 1:
		for i := pixel; i < len(row); i++ {
			row[i] += row[i-pixel]
		}
	case 2:
		for i, above := range before {
			row[i] += above
		}
	case 3:
		for i := range min(pixel, len(row)) {
			row[i] += before[i] / 2
		}
		for i := pixel; i < len(row); i++ {
			row[i] += byte((int(row[i-pixel]) + int(before[i])) / 2)
		}
	case 4:
		for i := range min(pixel, len(row)) {
			row[i] += before[i]
		}
		for i := pixel; i < len(row); i++ {
			row[i] += paeth(int(row[i-pixel]), int(before[i]), int(before[i-pixel]))
		}
	default:
		return errPNG
	}
	return nil
}

// paeth is which of three neighbours is nearest to left + above - corner.
func paeth(left, above, corner int) byte {
	toLeft, toAbove := above-corner, left-corner
	toCorner := abs(toLeft + toAbove)
	toLeft, toAbove = abs(toLeft), abs(toAbove)
	switch {
	case toLeft <= toAbove && toLeft <= toCorner:
		return byte(left)
	case toAbove <= toCorner:
		return byte(above)
	}
	return byte(corner)
}

func abs(v int) int {
	if v < 0 {
		return -v
	}
	return v
}
