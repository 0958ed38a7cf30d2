// SPDX-License-Identifier: Apache-2.0

package inputs

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

// maxChroma and minBytesPerPixel are the values that docs/comfyui.md proposes.
const (
	maxChroma        = 3
	minBytesPerPixel = 0.03
)

func TestFindings(t *testing.T) {
	all := Checks{MinSide: 400, MaxSide: 3000, MaxAspect: 4, MinBytesPerPixel: 0.05, MaxChroma: 4}
	good := Facts{Width: 900, Height: 600, Bytes: 60000, Measured: true}
	for name, of := range map[string]struct {
		checks   Checks
		change   func(*Facts)
		want     []Finding
		unjudged string
	}{
		"good":                        {all, func(*Facts) {}, nil, ""},
		"at the bounds":               {all, func(f *Facts) { f.Width, f.Height, f.Chroma = 1600, 400, 4 }, nil, ""},
		"small":                       {all, func(f *Facts) { f.Height = 399 }, []Finding{TooSmall}, ""},
		"small, on its side":          {all, func(f *Facts) { f.Width, f.Height = 399, 900 }, []Finding{TooSmall}, ""},
		"large":                       {all, func(f *Facts) { f.Height, f.Bytes = 3001, 1e6 }, []Finding{TooLarge}, ""},
		"narrow":                      {all, func(f *Facts) { f.Width, f.Height, f.Bytes = 2500, 500, 1e6 }, []Finding{Aspect}, ""},
		"compressed":                  {all, func(f *Facts) { f.Bytes = 26999 }, []Finding{Compressed}, ""},
		"coloured":                    {all, func(f *Facts) { f.Chroma = 4.1 }, []Finding{Coloured}, ""},
		"several":                     {all, func(f *Facts) { f.Height, f.Chroma, f.Bytes = 100, 20, 100 }, []Finding{TooSmall, Aspect, Compressed, Coloured}, ""},
		"colours not known":           {all, func(f *Facts) { f.Measured, f.Unjudged, f.Height = false, Memory, 399 }, []Finding{TooSmall}, Memory},
		"colours not known, not used": {Checks{MinSide: 400}, func(f *Facts) { f.Measured, f.Unjudged = false, Memory }, nil, ""},
		"nothing known":               {all, func(f *Facts) { *f = Facts{Unjudged: Pending} }, nil, Pending},
		"nothing checked":             {Checks{}, func(f *Facts) { f.Width, f.Chroma = 1, 100 }, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := good
			of.change(&f)
			found, unjudged := of.checks.Findings(&f)
			assert.Equal(t, of.want, found)
			assert.Equal(t, of.unjudged, unjudged)
		})
	}
}

func TestMessagesSayWhatIsWrongAndHowToMendIt(t *testing.T) {
	c := Checks{MinSide: 400, MaxSide: 3000, MaxAspect: 4, MinBytesPerPixel: 0.05, MaxChroma: 4}
	f := Facts{Width: 4000, Height: 300, Bytes: 2400}
	assert.Nil(t, c.Messages(nil, &f))
	assert.Equal(t, map[string]string{
		"en": "The image is too small (4000 × 300 pixels): upload one whose shorter side has 400 pixels or more, for example a scan of higher resolution; the image is coloured already: upload a black-and-white one",
		"zh": "图像太小（4000 × 300 像素）：请上传短边不小于 400 像素的图像，例如用更高分辨率重新扫描；图像已经是彩色的：请上传黑白图像",
	}, c.Messages([]Finding{TooSmall, Coloured}, &f))
	assert.Equal(t, map[string]string{
		"en": "The image is too large (4000 × 300 pixels): reduce its longer side to 3000 pixels or less; the image is too narrow (4000 : 300): crop it, or divide it into parts, so that its longer side is at most 4 times the shorter one; the image is compressed too much (0.002 bytes per pixel): upload the original, or save it with a higher quality (0.05 or more)",
		"zh": "图像太大（4000 × 300 像素）：请将长边缩小到 3000 像素以内；图像过于狭长（4000 : 300）：请裁剪或分成几部分，使长边不超过短边的 4 倍；图像压缩过度（每像素 0.002 字节）：请上传原图，或以更高质量保存（至少 0.05）",
	}, c.Messages([]Finding{TooLarge, Aspect, Compressed}, &f))
}
