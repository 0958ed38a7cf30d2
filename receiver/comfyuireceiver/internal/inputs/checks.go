// SPDX-License-Identifier: Apache-2.0

package inputs

// Checks are what the images of a task class are compared with. What is 0 is not checked.
type Checks struct {
	// MinSide bounds the shorter side, MaxSide the longer one, in pixels.
	MinSide, MaxSide int
	// MaxAspect bounds the longer side divided by the shorter one.
	MaxAspect float64
	// MinBytesPerPixel bounds the length of the file divided by the image's pixels.
	MinBytesPerPixel float64
	// MaxChroma bounds [Facts.Chroma].
	MaxChroma float64
}

// Finding is what is wrong with an image.
type Finding string

// The findings.
const (
	TooSmall   Finding = "too_small"
	TooLarge   Finding = "too_large"
	Aspect     Finding = "aspect"
	Compressed Finding = "compressed"
	Coloured   Finding = "coloured"
)

// Findings are what is wrong with an image. Unjudged is why something of it could not be checked;
// empty if all was.
func (c *Checks) Findings(f *Facts) (found []Finding, unjudged string) {
	if f.Width <= 0 || f.Height <= 0 {
		return nil, f.Unjudged
	}
	shorter, longer := min(f.Width, f.Height), max(f.Width, f.Height)
	for _, check := range []struct {
		finding Finding
		applies bool
	}{
		{TooSmall, shorter < c.MinSide},
		{TooLarge, c.MaxSide > 0 && longer > c.MaxSide},
		{Aspect, c.MaxAspect > 0 && float64(longer) > c.MaxAspect*float64(shorter)},
		{Compressed, f.BytesPerPixel() < c.MinBytesPerPixel},
		{Coloured, c.MaxChroma > 0 && f.Measured && f.Chroma > c.MaxChroma},
	} {
		if check.applies {
			found = append(found, check.finding)
		}
	}
	if c.MaxChroma > 0 && !f.Measured {
		unjudged = f.Unjudged
	}
	return found, unjudged
}

// BytesPerPixel is the length of the file divided by the image's pixels; 0 if they are not known.
func (f *Facts) BytesPerPixel() float64 {
	if f.Width <= 0 || f.Height <= 0 {
		return 0
	}
	return float64(f.Bytes) / float64(f.Width) / float64(f.Height)
}
