// SPDX-License-Identifier: Apache-2.0

package spans

import (
	"regexp"
	"strings"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

// OutOfMemory is the error.type of a prompt that exceeded the GPU's memory.
const OutOfMemory = "out_of_memory"

// Failed reports whether a prompt ended with a failure, which is logged.
func Failed(p *prompt.Prompt) bool {
	return p.Outcome == prompt.Error || p.Outcome == prompt.Lost || p.Outcome == prompt.Rejected
}

// errorType is the error.type of a failed prompt: out of memory under all names that
// torch has for it, else the exception's type, else the outcome.
func errorType(p *prompt.Prompt) string {
	switch {
	case p.Outcome == prompt.Lost:
		return string(prompt.Lost)
	case IsOutOfMemory(&p.Failure):
		return OutOfMemory
	case p.Failure.Type != "":
		return p.Failure.Type
	}
	return string(p.Outcome)
}

var outOfMemoryMessage = regexp.MustCompile(`(?i)out of memory|cudaErrorMemoryAllocation|CUBLAS_STATUS_ALLOC_FAILED|allocation on device`)

// IsOutOfMemory reports whether an error is the GPU's lack of memory.
func IsOutOfMemory(e *protocol.Error) bool {
	return strings.HasSuffix(e.Type, "OutOfMemoryError") || outOfMemoryMessage.MatchString(e.Message)
}

// maxMessage and maxTraceback bound texts of exceptions, in bytes. Of a traceback the
// last lines remain, which are nearest to the cause.
const (
	maxMessage   = 512
	maxTraceback = 4096
)

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	if len(line) > maxMessage {
		line = strings.ToValidUTF8(line[:maxMessage], "")
	}
	return line
}

func traceback(lines []string) string {
	text := strings.Join(lines, "")
	if len(text) > maxTraceback {
		text = strings.ToValidUTF8(text[len(text)-maxTraceback:], "")
	}
	return strings.TrimSpace(text)
}
