// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"bytes"
	"strconv"
)

// whitespace is JSON's.
const whitespace = " \t\r\n"

// WithNumber is the body of POST /prompt with a place in the queue. The body's text is edited and
// nothing else in it changes: of several keys of one name Python takes the last. ok is false for
// a body that does not begin and end as an object, which the server refuses.
func WithNumber(body []byte, number float64) (edited []byte, ok bool) {
	text := bytes.TrimRight(body, whitespace)
	object := bytes.TrimLeft(text, whitespace)
	if len(object) < 2 || object[0] != '{' || object[len(object)-1] != '}' {
		return body, false
	}
	fields := bytes.TrimRight(object[:len(object)-1], whitespace)
	edited = make([]byte, 0, len(body)+32)
	edited = append(edited, text[:len(text)-1]...)
	if len(fields) > 1 {
		edited = append(edited, ',')
	}
	edited = append(edited, `"number":`...)
	edited = strconv.AppendFloat(edited, number, 'f', 6, 64)
	edited = append(edited, '}')
	return append(edited, body[len(text):]...), true
}
