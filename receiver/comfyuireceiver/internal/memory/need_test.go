// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"maps"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestNeedIsTheLargestOfTheLastTwentyExecutions(t *testing.T) {
	n := NewNeeds(10)
	c := Class{Workflow: "w", SizeClass: "512"}
	largest, executions := n.Add(c, 9)
	assert.InDelta(t, 9, largest, 0)
	assert.Equal(t, 1, executions)
	assert.Empty(t, maps.Collect(n.Learned()), "of one execution nothing is learned")
	for i := range 19 {
		largest, executions = n.Add(c, float64(i)/10)
		assert.InDelta(t, 9, largest, 0)
		assert.Equal(t, i+2, executions)
	}
	assert.Equal(t, map[Class]float64{c: 9}, maps.Collect(n.Learned()))
	largest, executions = n.Add(c, 0.5)
	assert.InDelta(t, 1.8, largest, 1e-9, "the first is the 21st last now")
	assert.Equal(t, 20, executions)
	largest, _ = n.Add(Class{Workflow: "w", SizeClass: "1024"}, 4)
	assert.InDelta(t, 4, largest, 0, "another class")
}

func TestClassesThatWereNotUsedForTheLongestTimeMakeRoom(t *testing.T) {
	n := NewNeeds(3)
	class := func(i int) Class { return Class{Workflow: strconv.Itoa(i)} }
	for i := range 3 {
		n.Add(class(i), 1)
	}
	n.Add(class(0), 1)
	n.Add(class(3), 1)
	for _, b := range n.Bounds() {
		assert.LessOrEqual(t, b.Size, b.Max, b.Name)
	}
	_, executions := n.Add(class(0), 1)
	assert.Equal(t, 3, executions)
	_, executions = n.Add(class(1), 1)
	assert.Equal(t, 1, executions, "it made room")
}
