// SPDX-License-Identifier: Apache-2.0

package inputs

import (
	"encoding/binary"
	"image"
	"image/color"
)

// memoryOf is the upper bound of what a decoder allocates for an image, in bytes. It is derived from
// what the decoders of Go's standard library and of golang.org/x/image allocate; a test compares it
// with what they did.
func memoryOf(kind int, file []byte, header image.Config) int64 {
	pixels := int64(header.Width) * int64(header.Height)
	if header.Width >= 1<<24 || header.Height >= 1<<24 { // pixels times 16 would not fit
		return 1 << 62
	}
	switch kind {
	case kindJPEG:
		return jpegMemory(file, header)
	case kindPNG:
		if isInterlaced(file) {
			return 2 * pixels * depth(header.ColorModel) // a pass at a time is decoded beside the whole
		}
		return pngMemory(header)
	case kindGIF:
		return pixels
	case kindWebP:
		if isLossy(file) {
			return 2*pixels + int64(len(file)) // YCbCr 4:2:0 in whole macroblocks, and its partitions
		}
		return 10*pixels + int64(len(file)) // lossless, or with a lossless plane of transparency
	case kindTIFF:
		// The only strip may hold the whole, and what is decompressed grows by doubling.
		return 6 * pixels * depth(header.ColorModel)
	}
	return pixels * depth(header.ColorModel)
}

// isLossy reports whether a WebP has no lossless part: the first chunk that holds pixels decides, and
// one of transparency comes before it (RFC 9649).
func isLossy(file []byte) bool {
	const riff, frame = 12, 8
	for at := riff; at+frame <= len(file); {
		switch string(file[at : at+4]) {
		case "VP8 ":
			return true
		case "VP8L", "ALPH":
			return false
		}
		length := int(binary.LittleEndian.Uint32(file[at+4:]))
		at += frame + length + length%2
	}
	return false
}

// isInterlaced reports whether a PNG is.
func isInterlaced(file []byte) bool { return len(file) > pngInterlace && file[pngInterlace] != 0 }

// depth is how many bytes a decoder allocates for a pixel.
func depth(model color.Model) int64 {
	switch model {
	case color.GrayModel, color.AlphaModel:
		return 1
	case color.Gray16Model, color.Alpha16Model:
		return 2
	case color.RGBA64Model, color.NRGBA64Model:
		return 8
	}
	if _, isPalette := model.(color.Palette); isPalette {
		return 1
	}
	return 4
}

// Markers of JPEG (ITU-T T.81, table B.1).
const (
	markerSOF0 = 0xc0 // baseline; the next is extended, and the one after progressive
	markerSOF2 = 0xc2
	markerSOS  = 0xda
	markerRST0 = 0xd0
	markerEOI  = 0xd9
)

// jpegMemory is [memoryOf] a JPEG: its components, in whole blocks of up to 32 pixels, and what they
// are converted to. A progressive one needs its coefficients, of 4 bytes each, or those of frequency 0
// alone if [jpegReader] reads it.
func jpegMemory(file []byte, header image.Config) int64 {
	whole := int64(header.Width+31) * int64(header.Height+31)
	samples, progressive := jpegSamples(file)
	bytes := whole * samples / 4
	if isSampled(file, header) {
		const buffers = 3 << 20 // a reader's, and the samples
		return bytes/(blockSide*blockSide)*4 + buffers
	}
	if progressive {
		bytes *= 5
	}
	if header.ColorModel == color.CMYKModel || header.ColorModel == color.RGBAModel {
		bytes += 4 * whole
	}
	return bytes
}

// isSampled reports whether [jpegReader] reads a JPEG.
func isSampled(file []byte, header image.Config) bool {
	return isProgressive(file) && header.ColorModel == color.YCbCrModel
}

// isProgressive reports whether a JPEG is.
func isProgressive(file []byte) bool {
	_, progressive := jpegSamples(file)
	return progressive
}

// jpegSamples is how many samples a JPEG has for four pixels, and whether it is progressive.
func jpegSamples(file []byte) (samples int64, progressive bool) {
	const all = 4 * 4 // four components that are not subsampled
	for at := 2; at+4 <= len(file); {
		marker := file[at+1]
		switch {
		case file[at] != 0xff || marker == 0 || marker == 0xff: // between segments, as decoders allow
			at++
			continue
		case marker >= markerRST0 && marker < markerEOI:
			at += 2
			continue
		case marker == markerSOS || marker == markerEOI:
			return all, true
		}
		length := int(binary.BigEndian.Uint16(file[at+2:]))
		segment := file[at+4 : min(at+2+max(length, 2), len(file))]
		if marker >= markerSOF0 && marker <= markerSOF2 {
			return frameSamples(segment), marker == markerSOF2
		}
		at += 2 + max(length, 2)
	}
	return all, true
}

// frameSamples is how many samples a frame has for four pixels. Decoders bring components of unusual
// sampling to the size of the image.
func frameSamples(frame []byte) int64 {
	const header, component = 6, 3
	if len(frame) < header {
		return 4 * 4
	}
	n := int(frame[5])
	if n == 3 && len(frame) >= header+n*component && frame[header+1] == 0x22 && frame[header+4] == 0x11 && frame[header+7] == 0x11 {
		return 6 // 4:2:0
	}
	return 4 * int64(min(max(n, 1), 4))
}
