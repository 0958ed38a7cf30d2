// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestErrorRateIsThatOfTheLastHour(t *testing.T) {
	var r errorRate
	now := time.Now()
	assert.False(t, r.rises(now, 5000), "errors from before the start do not count")
	for i := range 48 { // two an hour, for two days
		now = now.Add(time.Hour)
		assert.False(t, r.rises(now, 5000+uint64(2*i)))
	}
	now = now.Add(time.Minute)
	assert.True(t, r.rises(now, 5300), "200 in a minute")
	now = now.Add(time.Hour)
	assert.True(t, r.rises(now, 5300), "the last hour or two")
	now = now.Add(time.Hour)
	assert.False(t, r.rises(now, 5300), "two hours are not")
	assert.False(t, r.rises(now.Add(time.Minute), 0), "a counter that was reset")
}
