// SPDX-License-Identifier: Apache-2.0

package inputs

import (
	"fmt"
	"strings"
)

// Messages are what is wrong with an image and how to mend it, by language (en, zh), for the user.
func (c *Checks) Messages(found []Finding, f *Facts) map[string]string {
	var en, zh []string
	shorter, longer := min(f.Width, f.Height), max(f.Width, f.Height)
	for _, finding := range found {
		switch finding {
		case TooSmall:
			en = append(en, fmt.Sprintf("the image is too small (%d × %d pixels): upload one whose shorter side has %d pixels or more, for example a scan of higher resolution", f.Width, f.Height, c.MinSide))
			zh = append(zh, fmt.Sprintf("图像太小（%d × %d 像素）：请上传短边不小于 %d 像素的图像，例如用更高分辨率重新扫描", f.Width, f.Height, c.MinSide))
		case TooLarge:
			en = append(en, fmt.Sprintf("the image is too large (%d × %d pixels): reduce its longer side to %d pixels or less", f.Width, f.Height, c.MaxSide))
			zh = append(zh, fmt.Sprintf("图像太大（%d × %d 像素）：请将长边缩小到 %d 像素以内", f.Width, f.Height, c.MaxSide))
		case Aspect:
			en = append(en, fmt.Sprintf("the image is too narrow (%d : %d): crop it, or divide it into parts, so that its longer side is at most %.3g times the shorter one", longer, shorter, c.MaxAspect))
			zh = append(zh, fmt.Sprintf("图像过于狭长（%d : %d）：请裁剪或分成几部分，使长边不超过短边的 %.3g 倍", longer, shorter, c.MaxAspect))
		case Compressed:
			en = append(en, fmt.Sprintf("the image is compressed too much (%.2g bytes per pixel): upload the original, or save it with a higher quality (%.2g or more)", f.BytesPerPixel(), c.MinBytesPerPixel))
			zh = append(zh, fmt.Sprintf("图像压缩过度（每像素 %.2g 字节）：请上传原图，或以更高质量保存（至少 %.2g）", f.BytesPerPixel(), c.MinBytesPerPixel))
		case Coloured:
			en = append(en, "the image is coloured already: upload a black-and-white one")
			zh = append(zh, "图像已经是彩色的：请上传黑白图像")
		}
	}
	if len(en) == 0 {
		return nil
	}
	first := en[0]
	en[0] = strings.ToUpper(first[:1]) + first[1:]
	return map[string]string{"en": strings.Join(en, "; "), "zh": strings.Join(zh, "；")}
}
