// SPDX-License-Identifier: Apache-2.0

package inputs

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"io"
)

// jpegReader reads the mean of each block of 8 × 8 samples of a progressive JPEG, the coefficients at
// frequency 0, which come first in the file. The standard library decodes the whole: 12 megapixels
// need 90 MiB. (ITU-T T.81, annexes F and G.)
type jpegReader struct {
	from          *bufio.Reader
	limit         *limited
	width, height int
	components    []jpegComponent
	// acrossMCU and belowMCU are how many groups of blocks the image has; a group has the blocks of the
	// components' sampling, of which these are the largest.
	acrossMCU, belowMCU, maxH, maxV int
	codes                           [4]*huffman
	// quantum is what the coefficients are divided by, of each table.
	quantum [4]int32
	// restart is after how many groups the state begins again; 0 is never.
	restart int

	// bits are the newest bitCount bits that were read and not used.
	bits     uint32
	bitCount int
}

// jpegComponent is one of luma, Cb and Cr.
type jpegComponent struct {
	id, table byte
	h, v      int
	// across is how many blocks a row has, those beyond the image's edge included.
	across int
	means  []int32
	isRead bool
	// before is the coefficient of the block before.
	before int32
}

// huffman is a canonical code (T.81, annex C): codes of each length follow each other.
type huffman struct {
	// first is the smallest code of a length, index where its symbols begin, count how many there are.
	first, index, count [17]int
	symbols             []byte
}

// Further markers of JPEG.
const (
	markerDHT = 0xc4
	markerDQT = 0xdb
	markerDRI = 0xdd
)

const (
	blockSide = 8
	// maxSampling bounds the blocks of a component in a group, in each direction (T.81, B.2.2).
	maxSampling = 4
	// maxMagnitude bounds the bits of a difference of 8-bit samples.
	maxMagnitude = 11
)

var errJPEG = errors.New("the JPEG is damaged, or of an unknown kind")

// sampleJPEG reads at most 256 × 256 blocks of a progressive JPEG in YCbCr, of which header is known: a
// further one does not count.
func sampleJPEG(from *limited, header image.Config) (*image.YCbCr, error) {
	r := &jpegReader{from: bufio.NewReader(from), limit: from, width: header.Width, height: header.Height}
	if _, err := r.from.Discard(2); err != nil { // its first marker
		return nil, err
	}
	for !r.isComplete() {
		marker, err := r.marker()
		if err != nil {
			return nil, err
		}
		if marker >= markerRST0 && marker < markerEOI {
			continue
		}
		if marker == markerEOI {
			return nil, errJPEG
		}
		if err := r.segment(marker); err != nil {
			return nil, fmt.Errorf("read segment %#x: %w", marker, err)
		}
	}
	return r.samples(), nil
}

func (r *jpegReader) isComplete() bool {
	for i := range r.components {
		if !r.components[i].isRead {
			return false
		}
	}
	return len(r.components) > 0
}

// marker reads up to the next marker; what is left of a scan is skipped.
func (r *jpegReader) marker() (byte, error) {
	isMarker := false
	for {
		b, err := r.from.ReadByte()
		switch {
		case err != nil:
			return 0, err
		case b == 0xff:
			isMarker = true
		case isMarker && b != 0:
			return b, nil
		default:
			isMarker = false
		}
	}
}

// segment reads what follows a marker.
func (r *jpegReader) segment(marker byte) error {
	var length [2]byte
	if _, err := io.ReadFull(r.from, length[:]); err != nil {
		return err
	}
	n := int(binary.BigEndian.Uint16(length[:])) - len(length)
	if n < 0 {
		return errJPEG
	}
	switch marker {
	case markerDQT, markerDHT, markerDRI, markerSOF2, markerSOS:
	default:
		_, err := r.from.Discard(n)
		return err
	}
	data := make([]byte, n)
	if _, err := io.ReadFull(r.from, data); err != nil {
		return err
	}
	switch marker {
	case markerDQT:
		return r.quanta(data)
	case markerDHT:
		return r.tables(data)
	case markerSOF2:
		return r.frame(data)
	case markerSOS:
		return r.scan(data)
	}
	if len(data) != 2 {
		return errJPEG
	}
	r.restart = int(binary.BigEndian.Uint16(data))
	return nil
}

// quanta reads tables of quantisation, of which the first entry counts.
func (r *jpegReader) quanta(data []byte) error {
	const entries = blockSide * blockSide
	for len(data) > 0 {
		size, table := 1+int(data[0]>>4), data[0]&15
		if size > 2 || int(table) >= len(r.quantum) || len(data) < 1+size*entries {
			return errJPEG
		}
		r.quantum[table] = int32(data[1])
		if size == 2 {
			r.quantum[table] = int32(binary.BigEndian.Uint16(data[1:]))
		}
		data = data[1+size*entries:]
	}
	return nil
}

// tables reads codes.
func (r *jpegReader) tables(data []byte) error {
	const lengths = 16
	for len(data) > 0 {
		if len(data) < 1+lengths {
			return errJPEG
		}
		h, code, sum := &huffman{}, 0, 0
		for i, n := range data[1 : 1+lengths] {
			h.first[i+1], h.index[i+1], h.count[i+1] = code, sum, int(n)
			code = (code + int(n)) << 1
			sum += int(n)
		}
		kind, table := data[0]>>4, data[0]&15
		if len(data) < 1+lengths+sum || int(table) >= len(r.codes) {
			return errJPEG
		}
		h.symbols = data[1+lengths : 1+lengths+sum]
		if kind == 0 { // of frequency 0
			r.codes[table] = h
		}
		data = data[1+lengths+sum:]
	}
	return nil
}

// frame reads the header of a progressive image.
func (r *jpegReader) frame(data []byte) error {
	const header, component = 6, 3
	if len(r.components) > 0 || len(data) != header+3*component || data[0] != 8 || data[5] != 3 {
		return errJPEG
	}
	if int(binary.BigEndian.Uint16(data[1:])) != r.height || int(binary.BigEndian.Uint16(data[3:])) != r.width {
		return errJPEG
	}
	for ; len(data) > header; data = data[component:] {
		c := jpegComponent{id: data[header], h: int(data[header+1] >> 4), v: int(data[header+1] & 15), table: data[header+2]}
		if c.h < 1 || c.v < 1 || c.h > maxSampling || c.v > maxSampling || int(c.table) >= len(r.quantum) {
			return errJPEG
		}
		r.maxH, r.maxV = max(r.maxH, c.h), max(r.maxV, c.v)
		r.components = append(r.components, c)
	}
	r.acrossMCU, r.belowMCU = ceil(r.width, blockSide*r.maxH), ceil(r.height, blockSide*r.maxV)
	for i := range r.components {
		c := &r.components[i]
		c.across = r.acrossMCU * c.h
		c.means = make([]int32, c.across*r.belowMCU*c.v)
	}
	return nil
}

func ceil(n, by int) int { return (n + by - 1) / by }

// scan reads a scan, if it is the first one of frequency 0 of its components.
func (r *jpegReader) scan(data []byte) error {
	if len(data) < 1 || data[0] < 1 || int(data[0]) > len(r.components) || len(data) != 4+2*int(data[0]) {
		return errJPEG
	}
	parameters := data[1+2*int(data[0]):]
	if parameters[0] != 0 || parameters[2]>>4 != 0 {
		return nil // others are skipped
	}
	var of []*jpegComponent
	var codes []*huffman
	for ; len(data) > 4; data = data[2:] {
		c, code := r.unread(data[1]), data[2]>>4
		if c == nil || int(code) >= len(r.codes) || r.codes[code] == nil {
			return errJPEG
		}
		c.isRead, c.before = true, 0
		of, codes = append(of, c), append(codes, r.codes[code])
	}
	return r.coefficients(of, codes, parameters[2]&15)
}

// unread is the component of an id, nil if the frame has none or it is read already.
func (r *jpegReader) unread(id byte) *jpegComponent {
	for i := range r.components {
		if c := &r.components[i]; c.id == id && !c.isRead {
			return c
		}
	}
	return nil
}

// coefficients reads those of a scan of some components, without their last bits.
func (r *jpegReader) coefficients(of []*jpegComponent, codes []*huffman, shift byte) error {
	r.bitCount = 0
	across, below := r.acrossMCU, r.belowMCU
	if len(of) == 1 { // the blocks of the image alone, one by one
		across = ceil(ceil(r.width*of[0].h, r.maxH), blockSide)
		below = ceil(ceil(r.height*of[0].v, r.maxV), blockSide)
	}
	for n := range across * below {
		if r.restart > 0 && n > 0 && n%r.restart == 0 {
			if err := r.begin(of); err != nil {
				return err
			}
		}
		x, y := n%across, n/across
		if x == 0 {
			if err := r.limit.expired(); err != nil {
				return err
			}
		}
		for i, c := range of {
			h, v := c.h, c.v
			if len(of) == 1 {
				h, v = 1, 1
			}
			for block := range h * v {
				difference, err := r.difference(codes[i])
				if err != nil {
					return err
				}
				c.before += difference
				c.means[(y*v+block/h)*c.across+x*h+block%h] = c.before << shift
			}
		}
	}
	return nil
}

// begin begins again after a restart marker.
func (r *jpegReader) begin(of []*jpegComponent) error {
	marker, err := r.marker()
	if err != nil {
		return err
	}
	if marker < markerRST0 || marker > markerRST0+7 {
		return errJPEG
	}
	r.bitCount = 0
	for _, c := range of {
		c.before = 0
	}
	return nil
}

// difference reads the difference to the coefficient before (T.81, F.2.2.1).
func (r *jpegReader) difference(h *huffman) (int32, error) {
	code := 0
	for length := 1; length < len(h.count); length++ {
		bit, err := r.read(1)
		if err != nil {
			return 0, err
		}
		code = code<<1 | int(bit)
		at := code - h.first[length]
		if at < 0 || at >= h.count[length] {
			continue
		}
		n := int(h.symbols[h.index[length]+at])
		if n > maxMagnitude {
			return 0, errJPEG
		}
		value, err := r.read(n)
		if n > 0 && value < 1<<(n-1) { // negative
			return int32(value) - 1<<n + 1, err
		}
		return int32(value), err
	}
	return 0, errJPEG
}

// read reads up to 16 bits of a scan, in which a zero follows each byte of ones.
func (r *jpegReader) read(n int) (uint32, error) {
	for r.bitCount < n {
		b, err := r.from.ReadByte()
		if err != nil {
			return 0, err
		}
		if b == 0xff {
			if stuffed, err := r.from.ReadByte(); err != nil || stuffed != 0 {
				return 0, errors.Join(errJPEG, err)
			}
		}
		r.bits = r.bits<<8 | uint32(b)
		r.bitCount += 8
	}
	r.bitCount -= n
	return r.bits >> r.bitCount & (1<<n - 1), nil
}

// samples are the means of at most 256 × 256 blocks.
func (r *jpegReader) samples() *image.YCbCr {
	columns, rows := min(ceil(r.width, blockSide), maxSamples), min(ceil(r.height, blockSide), maxSamples)
	m := image.NewYCbCr(image.Rect(0, 0, columns, rows), image.YCbCrSubsampleRatio444)
	planes := [3][]byte{m.Y, m.Cb, m.Cr}
	for j := range rows {
		for i := range columns {
			x, y := placeOf(i, r.width, columns), placeOf(j, r.height, rows)
			for k := range r.components {
				c := &r.components[k]
				mean := c.means[y*c.v/r.maxV/blockSide*c.across+x*c.h/r.maxH/blockSide]
				planes[k][j*columns+i] = byte(min(max(int64(mean)*int64(r.quantum[c.table])/blockSide+neutral, 0), 255))
			}
		}
	}
	return m
}
