// SPDX-License-Identifier: Apache-2.0

package inputs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"
	"time"

	"golang.org/x/image/bmp"
	"golang.org/x/image/tiff"
	"golang.org/x/image/webp"
)

// Why something is not known of an image.
const (
	// Length: the upload is longer than is copied.
	Length = "length"
	// Busy: too many uploads are copied at a time, or wait to be judged.
	Busy = "busy"
	// Unread: the upload, or the server's answer to it, does not have the expected form.
	Unread = "unread"
	// Format: it is not an image of a known format, or is damaged.
	Format = "format"
	// Memory: to decode it may need more memory than allowed.
	Memory = "memory"
	// Time: to decode it lasted longer than allowed.
	Time = "time"
	// Stopping: the receiver shut down before it was judged.
	Stopping = "stopping"
	// Pending: it is not judged yet.
	Pending = "pending"
	// Unknown: it was not uploaded through this proxy, or so long ago that it was forgotten.
	Unknown = "unknown"
)

// Facts are what is known of an image.
type Facts struct {
	// Width and Height are in pixels, 0 if they are not known; Bytes is the length of its file.
	Width, Height, Bytes int
	// Chroma is how coloured it is: chroma beyond one tone, in steps of 8 bits; see docs/comfyui.md.
	// It is known if Measured is true.
	Chroma   float64
	Measured bool
	// Unjudged is why something is not known; empty if all is.
	Unjudged string
}

// Limits bound what it costs to decode an image.
type Limits struct {
	// Memory is in bytes, of what the decoder allocates.
	Memory int64
	Time   time.Duration
	// Now is the clock of Time.
	Now func() time.Time
}

// Measure finds out about an image from its file: with colour its pixels are decoded, else its header
// alone is read, as it is of one in shades of grey.
func Measure(ctx context.Context, file []byte, colour bool, limits Limits) (f Facts) {
	f.Bytes = len(file)
	defer func() {
		if recover() != nil { // a decoder's mistake
			f.Unjudged = Format
		}
	}()
	kind := kindOf(file)
	from := &limited{ctx: ctx, from: bytes.NewReader(file), now: limits.Now, end: limits.Now().Add(limits.Time)}
	header, err := configOf(kind, from)
	if err == nil && (header.Width <= 0 || header.Height <= 0) {
		err = image.ErrFormat
	}
	if err != nil {
		f.Unjudged = reasonOf(from, Format)
		return f
	}
	f.Width, f.Height = header.Width, header.Height
	if !colour {
		return f
	}
	if header.ColorModel == color.GrayModel || header.ColorModel == color.Gray16Model {
		f.Measured = true // it has no colours
		return f
	}
	if memoryOf(kind, file, header) > limits.Memory {
		f.Unjudged = Memory
		return f
	}
	from.from.Reset(file)
	var m image.Image
	side := cellSide
	switch {
	case kind == kindPNG && !isInterlaced(file):
		m, err = samplePNG(from, header)
	case kind == kindJPEG && isSampled(file, header):
		side = 1 // what it samples are means
		m, err = sampleJPEG(from, header)
	case kind == kindJPEG && isProgressive(file):
		from.atOnce = maxScanRead
		m, err = decode(kind, from)
	default:
		m, err = decode(kind, from)
	}
	if err != nil {
		f.Unjudged = reasonOf(from, Format)
		return f
	}
	f.Chroma, f.Measured = chromaOf(m, side), true
	return f
}

// reasonOf is why a decoder failed: since its source ended early, or else.
func reasonOf(from *limited, otherwise string) string {
	switch {
	case errors.Is(from.err, errStopped):
		return Stopping
	case errors.Is(from.err, errTime):
		return Time
	}
	return otherwise
}

// The formats.
const (
	kindJPEG = iota + 1
	kindPNG
	kindGIF
	kindWebP
	kindBMP
	kindTIFF
)

// kindOf is a file's format by its first bytes; 0 if it is not known.
func kindOf(file []byte) int {
	for _, k := range []struct {
		kind   int
		begins string
	}{
		{kindJPEG, "\xff\xd8\xff"},
		{kindPNG, "\x89PNG\r\n\x1a\n"},
		{kindGIF, "GIF8"},
		{kindBMP, "BM"},
		{kindTIFF, "II*\x00"},
		{kindTIFF, "MM\x00*"},
	} {
		if bytes.HasPrefix(file, []byte(k.begins)) {
			return k.kind
		}
	}
	if len(file) >= 12 && string(file[:4]) == "RIFF" && string(file[8:12]) == "WEBP" {
		return kindWebP
	}
	return 0
}

// configOf reads the header of an image.
func configOf(kind int, from *limited) (image.Config, error) {
	switch kind {
	case kindJPEG:
		return jpeg.DecodeConfig(from)
	case kindPNG:
		return png.DecodeConfig(from)
	case kindGIF:
		return gif.DecodeConfig(from)
	case kindWebP:
		return webp.DecodeConfig(from)
	case kindBMP:
		return bmp.DecodeConfig(from)
	case kindTIFF:
		return tiff.DecodeConfig(from)
	}
	return image.Config{}, image.ErrFormat
}

// decode reads an image; of an animation, its first frame.
func decode(kind int, from *limited) (image.Image, error) {
	switch kind {
	case kindJPEG:
		return jpeg.Decode(from)
	case kindPNG:
		return png.Decode(from)
	case kindGIF:
		return gif.Decode(from)
	case kindWebP:
		return webp.Decode(from)
	case kindBMP:
		return bmp.Decode(from)
	case kindTIFF:
		return tiff.Decode(from)
	}
	return nil, image.ErrFormat
}

var (
	errTime    = errors.New("the time to decode an image has passed")
	errStopped = errors.New("the receiver shuts down")
)

// limited is a file that ends with an error once the time of its decoder has passed. Decoders read
// as they go, so that they end then, too.
type limited struct {
	ctx  context.Context
	from *bytes.Reader
	now  func() time.Time
	end  time.Time
	// atOnce bounds what is read at a time, in bytes; 0 is maxRead.
	atOnce int
	err    error
}

// maxRead bounds what is read at a time, in bytes, so that the time is looked at often; maxScanRead
// does for progressive JPEGs, of which a scan of 14 bytes has the standard library go through all
// blocks, since an end-of-band run says of 32,767 that they have nothing.
const (
	maxRead     = 32 << 10
	maxScanRead = 128
)

// expired reports whether the time has passed.
func (l *limited) expired() error {
	switch {
	case l.err != nil:
	case l.ctx.Err() != nil:
		l.err = fmt.Errorf("%w: %w", errStopped, l.ctx.Err())
	case l.now().After(l.end):
		l.err = errTime
	}
	return l.err
}

// Read implements [io.Reader].
func (l *limited) Read(p []byte) (int, error) {
	if err := l.expired(); err != nil {
		return 0, err
	}
	bound := maxRead
	if l.atOnce > 0 {
		bound = l.atOnce
	}
	return l.from.Read(p[:min(len(p), bound)])
}

// ReadAt implements [io.ReaderAt], which saves the decoder of TIFF a copy of the file.
func (l *limited) ReadAt(p []byte, at int64) (int, error) {
	if err := l.expired(); err != nil {
		return 0, err
	}
	return l.from.ReadAt(p, at)
}

var _ io.ReaderAt = (*limited)(nil)
