// SPDX-License-Identifier: Apache-2.0

package spans

import (
	"fmt"
	"regexp"

	"github.com/otelcol-gpu/otelcol-gpu/internal/boundtext"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

// Capture switches on private data, which is left out of telemetry by default.
type Capture struct {
	// PromptText sets text inputs of the workflow's nodes on the root span
	// (comfyui.prompt.text), after redaction.
	PromptText bool `mapstructure:"prompt_text"`
	// FileNames leaves names of image and video files in error messages and tracebacks.
	FileNames bool `mapstructure:"file_names"`
	// ClientAddress sets client.address on the root span.
	ClientAddress bool `mapstructure:"client_address"`
	// ClientID sets comfyui.client.id on the root span.
	ClientID bool `mapstructure:"client_id"`
	// Redact are regular expressions; in all texts that are captured, matches are replaced
	// by "***".
	Redact []string `mapstructure:"redact"`
}

// mediaFile matches names of image, video and sound files, which belong to users. Paths
// of Python files in tracebacks remain.
var mediaFile = regexp.MustCompile(`(?i)[^\s'"` + "`" + `<>|:*?/\\]+\.(?:png|jpe?g|webp|gif|bmp|tiff?|mp4|mov|webm|mkv|avi|wav|mp3|flac)`)

const redacted = "***"

// redactor removes private data from texts.
type redactor []*regexp.Regexp

func newRedactor(c Capture) (redactor, error) {
	var r redactor
	if !c.FileNames {
		r = append(r, mediaFile)
	}
	for i, text := range c.Redact {
		pattern, err := regexp.Compile(text)
		if err != nil {
			return nil, fmt.Errorf("compile capture::redact::%d: %w", i, err)
		}
		r = append(r, pattern)
	}
	return r, nil
}

func (r redactor) redact(text string) string {
	for _, p := range r {
		text = p.ReplaceAllString(text, redacted)
	}
	return text
}

// maxPromptText bounds the captured text of one prompt, in bytes.
const maxPromptText = protocol.MaxPromptText / 2

// promptTexts are the texts of the workflow's text nodes.
func (w *traceWriter) promptTexts() (texts []string) {
	size := 0
	for _, n := range w.prompt.Submission.Nodes {
		input := n.Inputs["text"]
		if !input.IsText || input.Value == "" || size+boundtext.MinBytes > maxPromptText {
			continue
		}
		text := boundtext.Text(w.redactor.redact(input.Value), maxPromptText-size)
		size += len(text)
		texts = append(texts, text)
	}
	return texts
}
