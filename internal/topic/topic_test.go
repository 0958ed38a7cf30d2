// SPDX-License-Identifier: Apache-2.0

package topic

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEverySubscriberReceivesWhatIsPublished(t *testing.T) {
	var tp Topic[int]
	assert.False(t, tp.HasSubscribers())
	tp.Publish(1) // to nobody
	var a, b []int
	cancelA := tp.Subscribe(func(v int) { a = append(a, v) })
	cancelB := tp.Subscribe(func(v int) { b = append(b, v) })
	tp.Publish(2)
	cancelA()
	cancelA() // a second time is harmless
	tp.Publish(3)
	assert.True(t, tp.HasSubscribers())
	cancelB()
	assert.False(t, tp.HasSubscribers())
	tp.Publish(4)
	assert.Equal(t, []int{2}, a)
	assert.Equal(t, []int{2, 3}, b)
}

func TestASubscriberMayUseTheTopic(t *testing.T) {
	var tp Topic[int]
	var received []int
	var cancel func()
	cancel = tp.Subscribe(func(v int) {
		received = append(received, v)
		cancel()
		tp.Subscribe(func(v int) { received = append(received, 10*v) })
		if v < 2 {
			tp.Publish(v + 1)
		}
	})
	tp.Publish(1) // would hang if a lock were held
	assert.Equal(t, []int{1, 20}, received)
}
