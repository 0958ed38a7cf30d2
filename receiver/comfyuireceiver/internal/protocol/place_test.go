// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func number(n float64) *float64 { return &n }

// TestPlaceInTheQueueIsReadAsPythonDoes: number takes precedence over front, the last of several
// counts, and texts are numbers, too.
func TestPlaceInTheQueueIsReadAsPythonDoes(t *testing.T) {
	inFront := number(math.Inf(-1))
	for body, want := range map[string]*float64{
		`{}`:                              nil,
		`{"number": 7}`:                   number(7),
		`{"number": -1.5e3}`:              number(-1500),
		`{"number": 1e400}`:               number(math.Inf(1)),
		`{"number": " -5 "}`:              number(-5),
		`{"number": "nan"}`:               number(0),
		`{"number": NaN}`:                 number(0),
		`{"number": true}`:                number(1),
		`{"number": null}`:                number(0),
		`{"number": 1, "number": 2}`:      number(2),
		`{"front": true}`:                 inFront,
		`{"front": false}`:                nil,
		`{"front": null}`:                 nil,
		`{"front": 0}`:                    nil,
		`{"front": 1}`:                    inFront,
		`{"front": ""}`:                   nil,
		`{"front": "false"}`:              inFront,
		`{"front": []}`:                   nil,
		`{"front": {}}`:                   nil,
		`{"front": [0]}`:                  inFront,
		`{"front": true, "front": false}`: nil,
		`{"front": true, "number": 3}`:    number(3),
		`{"number": 3, "front": true}`:    number(3),
		`{"extra_data": {"number": -1}}`:  nil,
		`{"Number": -1, "FRONT": true}`:   nil,
	} {
		s, err := bounds.ParseSubmission(strings.NewReader(body))
		require.NoError(t, err, body)
		assert.Equal(t, want, s.Number, body)
	}
}

func TestDeadlineOfARequest(t *testing.T) {
	for body, want := range map[string]float64{
		`{}`:                                       0,
		`{"deadline_s": 9}`:                        0,
		`{"extra_data": {"deadline_s": 12.5}}`:     12.5,
		`{"extra_data": {"deadline_s": "8"}}`:      8,
		`{"extra_data": {"deadline_s": -8}}`:       -8,
		`{"extra_data": {"deadline_s": [8]}}`:      0,
		`{"extra_data": {"deadline_s": Infinity}}`: 0,
		`{"extra_data": {"task_class": "people"}}`: 0,
	} {
		s, err := bounds.ParseSubmission(strings.NewReader(body))
		require.NoError(t, err, body)
		assert.InDelta(t, want, s.Deadline, 0, body)
	}
}
