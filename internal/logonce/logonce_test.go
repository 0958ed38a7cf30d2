// SPDX-License-Identifier: Apache-2.0

package logonce

import (
	"errors"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAConditionIsLoggedWhenItChanges(t *testing.T) {
	var l Tracker
	assert.False(t, l.ChangedError("power", nil), "it never failed, so it does not work again")
	assert.True(t, l.ChangedError("power", errors.New("timeout")))
	assert.False(t, l.ChangedError("power", errors.New("timeout")))
	assert.True(t, l.ChangedError("power", errors.New("lost")), "another reason")
	assert.True(t, l.ChangedError("memory", errors.New("lost")), "another condition")
	assert.True(t, l.ChangedError("power", nil))
	assert.False(t, l.ChangedError("power", nil))
}

func TestFirstIsTrueOnceUntilForgotten(t *testing.T) {
	var l Tracker
	assert.True(t, l.First("events"))
	assert.False(t, l.First("events"))
	l.Forget("events")
	assert.True(t, l.First("events"))
}

func TestConditionsAreBounded(t *testing.T) {
	var l Tracker
	for i := range 3 * maxKeys {
		assert.True(t, l.First(strconv.Itoa(i)))
		assert.LessOrEqual(t, len(l.states), maxKeys)
	}
}
