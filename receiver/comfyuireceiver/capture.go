// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"regexp"
	"strings"

	"go.opentelemetry.io/collector/pdata/pcommon"
)

// CaptureConfig switches on what is private and else left out of telemetry.
type CaptureConfig struct {
	// PromptText puts text inputs of the workflow's nodes on the root span
	// (comfyui.prompt.text), after redaction.
	PromptText bool `mapstructure:"prompt_text"`
	// FileNames leaves names of files in error messages and tracebacks.
	FileNames bool `mapstructure:"file_names"`
	// ClientAddress puts client.address on the root span.
	ClientAddress bool `mapstructure:"client_address"`
	// ClientID puts comfyui.client.id on the root span.
	ClientID bool `mapstructure:"client_id"`
	// Redact are regular expressions; what they match is replaced by "***" in
	// everything that is captured.
	Redact []string `mapstructure:"redact"`

	patterns []*regexp.Regexp
}

// mediaFile matches names of images and films, which are users' own. Paths of
// Python's files in tracebacks are left.
var mediaFile = regexp.MustCompile(`(?i)[^\s'"` + "`" + `<>|:*?/\\]+\.(?:png|jpe?g|webp|gif|bmp|tiff?|mp4|mov|webm|mkv|avi|wav|mp3|flac)`)

const redacted = "***"

// redact takes out of a text what must not be in telemetry.
func (b *spanBuilder) redact(text string) string {
	if !b.capture.FileNames {
		text = mediaFile.ReplaceAllString(text, redacted)
	}
	for _, p := range b.capture.patterns {
		text = p.ReplaceAllString(text, redacted)
	}
	return text
}

// mostText bounds the captured text of one prompt, in bytes.
const mostText = 2048

// promptText puts the texts of the workflow's text nodes on the root span.
func (o *one) promptText(a pcommon.Map) {
	var texts []string
	size := 0
	for i := range o.p.Submission.Nodes {
		text, ok := o.p.Submission.Nodes[i].Inputs["text"].(string)
		if !ok || text == "" || size >= mostText {
			continue
		}
		if len(text) > mostText-size {
			text = strings.ToValidUTF8(text[:mostText-size], "")
		}
		size += len(text)
		texts = append(texts, o.redact(text))
	}
	if len(texts) > 0 {
		putList(a, "comfyui.prompt.text", texts)
	}
}
