// SPDX-License-Identifier: Apache-2.0

package sharedcomponent

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestOneInstanceForAConfigurationUntilItIsForgotten(t *testing.T) {
	type config struct{ _ int }
	var s Instances[*config, int]
	made := 0
	create := func() int { made++; return made }
	a, b := &config{}, &config{}
	assert.Equal(t, []int{1, 1, 2, 1}, []int{s.Of(a, create), s.Of(a, create), s.Of(b, create), s.Of(a, create)})
	s.Forget(a)
	assert.Equal(t, []int{3, 2}, []int{s.Of(a, create), s.Of(b, create)})
}
