// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"bytes"
	"strconv"
)

// WithNumber is the body of POST /prompt with a place in the queue. The body's text is edited and
// nothing else in it changes: of several keys of one name Python takes the last. ok is false for
// a body that does not end as an object.
func WithNumber(body []byte, number float64) (edited []byte, ok bool) {
	end := bytes.TrimRight(body, " \t\r\n")
	if len(end) < 2 || end[len(end)-1] != '}' {
		return body, false
	}
	before := bytes.TrimRight(end[:len(end)-1], " \t\r\n")
	edited = make([]byte, 0, len(body)+32)
	edited = append(edited, end[:len(end)-1]...)
	if before[len(before)-1] != '{' {
		edited = append(edited, ',')
	}
	edited = append(edited, `"number":`...)
	edited = strconv.AppendFloat(edited, number, 'f', 6, 64)
	edited = append(edited, '}')
	return append(edited, body[len(end):]...), true
}
