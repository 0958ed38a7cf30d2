// SPDX-License-Identifier: Apache-2.0

package spans

import (
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
)

// putInput sets what was found about a prompt's images.
func putInput(a pcommon.Map, in *prompt.Input) {
	if in == nil {
		return
	}
	putList(a, "comfyui.input.findings", in.Findings)
	putIfSet(a, "comfyui.input.unjudged", in.Unjudged)
	if len(in.Findings) == 0 {
		return
	}
	putIfSet(a, "comfyui.input.action", in.Action)
	putIfPositive(a, "comfyui.input.width", in.Width)
	putIfPositive(a, "comfyui.input.height", in.Height)
	a.PutDouble("comfyui.input.bytes_per_pixel", in.BytesPerPixel)
	a.PutDouble("comfyui.input.chroma", in.Chroma)
}

// PoorInput reports whether something is wrong with a prompt's images, which is logged.
func PoorInput(p *prompt.Prompt) bool { return p.Input != nil && len(p.Input.Findings) > 0 }

// Input makes the record of a prompt with whose images something is wrong.
func (b *Builder) Input(p *prompt.Prompt, now time.Time) plog.Logs {
	logs, r := b.record("comfyui.prompt.input", p.Received, now, plog.SeverityNumberInfo, p.Context)
	b.identify(r.Attributes(), p)
	putInput(r.Attributes(), p.Input)
	putIfSet(r.Attributes(), semconv.GPUID, b.device.Device().ID)
	text := "poor input: "
	if p.Admission.Refuses() {
		text = "prompt refused for poor input: "
	}
	r.Body().SetStr(text + strings.Join(p.Input.Findings, ", "))
	return logs
}
