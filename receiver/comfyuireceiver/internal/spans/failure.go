// SPDX-License-Identifier: Apache-2.0

package spans

import (
	"regexp"
	"strings"

	"github.com/otelcol-gpu/otelcol-gpu/internal/boundtext"
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

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}

// message is a failure's message, without private data.
func (b *Builder) message(f *protocol.Error) string {
	return boundtext.Text(b.redactor.redact(strings.TrimSpace(f.Message)), b.bounds.Message)
}

// messageLine is message on one line, for log records: what a client chose is in it, as the class of a node
// that does not exist, and must not look like a line of its own where a log is printed.
func (b *Builder) messageLine(f *protocol.Error) string {
	return boundtext.Line(strings.Join(strings.FieldsFunc(b.message(f), func(r rune) bool { return r == '\n' || r == '\t' }), " "), b.bounds.Message)
}

// summary is the first line of a failure's message.
func (b *Builder) summary(f *protocol.Error) string {
	return boundtext.Line(b.redactor.redact(firstLine(f.Message)), b.bounds.Label)
}

// stacktrace is a failure's stack trace, without private data. Its end, which is nearest to
// the cause, is kept.
func (b *Builder) stacktrace(f *protocol.Error) string {
	return boundtext.Tail(strings.TrimSpace(b.redactor.redact(strings.Join(f.Traceback, ""))), b.bounds.Stacktrace)
}
