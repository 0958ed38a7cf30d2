// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"strings"

	"github.com/otelcol-gpu/otelcol-gpu/internal/boundtext"
)

// Bounds bound the texts that clients and servers send, in bytes.
type Bounds struct {
	// Label bounds what becomes an attribute or a label: ids, classes, titles, models.
	Label int
	// Message bounds messages of exceptions, Stacktrace their stack traces.
	Message, Stacktrace int
	// Nodes bounds the nodes of a prompt and of a message.
	Nodes int
}

func (b *Bounds) label(s *string) { *s = boundtext.Line(*s, b.Label) }

// bound bounds the texts of a failure.
func (b *Bounds) bound(e *Error) {
	b.label(&e.NodeID)
	b.label(&e.NodeType)
	b.label(&e.Type)
	e.Message = boundtext.Text(e.Message, b.Message)
	if len(e.Traceback) > 0 {
		e.Traceback = []string{boundtext.Tail(strings.Join(e.Traceback, ""), b.Stacktrace)}
	}
}
