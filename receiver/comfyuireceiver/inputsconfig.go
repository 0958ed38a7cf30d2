// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/otelcol-gpu/otelcol-gpu/internal/configkeys"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/inputs"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/sizing"
)

// What follows a finding.
const (
	actionWarn   = "warn"
	actionReject = "reject"
)

// InputCheckConfig is what the images of a task class are compared with. What is 0 is not checked.
type InputCheckConfig struct {
	// MinSide bounds the shorter side, MaxSide the longer one, in pixels.
	MinSide int `mapstructure:"min_side"`
	MaxSide int `mapstructure:"max_side"`
	// MaxAspect bounds the longer side divided by the shorter one, for example 4.
	MaxAspect float64 `mapstructure:"max_aspect"`
	// MinBytesPerPixel bounds the length of the file divided by the pixels, for example 0.03.
	MinBytesPerPixel float64 `mapstructure:"min_bytes_per_pixel"`
	// MaxChroma bounds how coloured an image is beyond one tone, for example 3: the root mean square of
	// the chroma of at most 256 × 256 pixels, in steps of 8-bit Cb and Cr.
	MaxChroma float64 `mapstructure:"max_chroma"`
	// Action is warn or reject: the prompt that names the image is answered with 400. Default: warn.
	Action string `mapstructure:"action"`
}

func (c *InputCheckConfig) checks() *inputs.Checks {
	return &inputs.Checks{MinSide: c.MinSide, MaxSide: c.MaxSide, MaxAspect: c.MaxAspect, MinBytesPerPixel: c.MinBytesPerPixel, MaxChroma: c.MaxChroma}
}

func (c *InputCheckConfig) action() string { return cmp.Or(c.Action, actionWarn) }

const (
	// maxCheckedBytes is more than any file has for a pixel: four channels of 16 bits.
	maxCheckedBytes = 8
	// maxCheckedChroma is the largest chroma of 8 bits: 128 in both directions.
	maxCheckedChroma = 181
)

// validateInputs adds the mistakes of input_checks.
func (c *Config) validateInputs(p *configkeys.Problems) {
	const key = "input_checks"
	if len(c.InputChecks) == 0 {
		return
	}
	p.AddIf(c.Mode == modePoll, key, len(c.InputChecks), "have no effect in poll mode", "remove them, or set mode: proxy")
	p.AddIf(c.Limits.ImageBytes > c.Limits.UploadBytes, "limits::image_bytes", c.Limits.ImageBytes, "is more than limits::upload_bytes", "lower it, or raise limits::upload_bytes")
	known, err := sizing.ClassNames(c.TaskClasses)
	for _, class := range slices.Sorted(maps.Keys(c.InputChecks)) {
		p.AddIf(err == nil && !slices.Contains(known, class), key+"::"+class, nil, "is not a task class", "use "+strings.Join(known, ", ")+", or add it to task_classes")
		check := c.InputChecks[class]
		check.validate(p, key+"::"+class)
	}
}

// validateAdmittedClasses adds the task classes of admission::rewrite_size and admission::rate_limits
// that do not exist. Where clients may name classes, any limit may apply.
func (c *Config) validateAdmittedClasses(p *configkeys.Problems) {
	known, err := sizing.ClassNames(c.TaskClasses)
	const mistake = "is not a task class"
	remedy := "use " + strings.Join(known, ", ") + ", or add it to task_classes"
	for i, class := range c.Admission.RewriteSize {
		p.AddIf(err == nil && !slices.Contains(known, class), "admission::rewrite_size::"+strconv.Itoa(i), class, mistake, remedy)
	}
	if c.Admission.Mode != modeEnforce || c.Admission.TrustRequestClass {
		return
	}
	for i := range c.Admission.RateLimits {
		class := c.Admission.RateLimits[i].TaskClass
		p.AddIf(err == nil && class != "" && !slices.Contains(known, class), "admission::rate_limits::"+strconv.Itoa(i)+"::task_class", class, mistake, remedy)
	}
}

func (c *InputCheckConfig) validate(p *configkeys.Problems, key string) {
	p.AddIf(c.MinSide < 0, key+"::min_side", c.MinSide, "is negative", "use a number of pixels, or 0 to check none")
	p.AddIf(c.MaxSide < 0, key+"::max_side", c.MaxSide, "is negative", "use a number of pixels, or 0 to check none")
	p.AddIf(c.MaxSide > 0 && c.MinSide > c.MaxSide, key+"::min_side", c.MinSide, "is greater than max_side", "swap the two, or leave one out")
	p.AddIf(c.MaxAspect != 0 && !(c.MaxAspect >= 1), key+"::max_aspect", c.MaxAspect, "is less than 1, the aspect of a square", "use a number such as 4, or 0 to check none")
	p.AddIf(!(c.MinBytesPerPixel >= 0 && c.MinBytesPerPixel <= maxCheckedBytes), key+"::min_bytes_per_pixel", c.MinBytesPerPixel, "is not between 0 and 8",
		"use a number such as 0.03, or 0 to check none")
	p.AddIf(!(c.MaxChroma >= 0 && c.MaxChroma <= maxCheckedChroma), key+"::max_chroma", c.MaxChroma, "is not between 0 and 181", "use a number such as 3, or 0 to check none")
	p.AddIf(c.Action != "" && c.Action != actionWarn && c.Action != actionReject, key+"::action", c.Action, "is not a valid action", "use warn or reject")
	p.AddIf(*c == (InputCheckConfig{Action: c.Action}), key, nil, "checks nothing", "set min_side, max_side, max_aspect, min_bytes_per_pixel or max_chroma")
}

// knownClasses are the task classes that prompts may have; nil where clients may name others.
func (c *Config) knownClasses() []string {
	if c.Admission.TrustRequestClass {
		return nil
	}
	known, err := sizing.ClassNames(c.TaskClasses)
	if err != nil { // validated before
		return nil
	}
	return known
}
