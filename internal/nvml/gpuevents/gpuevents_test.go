// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package gpuevents

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/growth"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func TestAChangeThatTwoReceiversReportIsPublishedOnce(t *testing.T) {
	var b Bus
	var conditions []string
	var throttling []bool
	b.Conditions.Subscribe(func(c ConditionChange) { conditions = append(conditions, c.Condition) })
	b.Throttling.Subscribe(func(c ThrottlingChange) { throttling = append(throttling, c.Active) })
	gpu, lost := &nvml.GPU{}, errors.New("lost")
	for range 2 {
		b.ReportCondition(gpu, "healthy", true, nil, epoch)
		b.ReportThrottling(gpu, "sw_thermal", false, epoch)
	}
	for range 2 {
		b.ReportCondition(gpu, "lost", false, lost, epoch)
		b.ReportThrottling(gpu, "sw_thermal", true, epoch)
	}
	b.ReportCondition(gpu, "healthy", true, nil, epoch)
	b.ReportThrottling(gpu, "sw_thermal", false, epoch)
	assert.Equal(t, []string{"lost", "healthy"}, conditions)
	assert.Equal(t, []bool{true, false}, throttling)
}

func TestAGPUThatIsNotHealthyAtFirstIsAChange(t *testing.T) {
	var b Bus
	n := 0
	b.Conditions.Subscribe(func(ConditionChange) { n++ })
	b.ReportHang(&nvml.GPU{}, errors.New("a call hangs"), epoch)
	assert.Equal(t, 1, n)
}

// A receiver that read the GPU just before its call hung reports it as healthy just after.
func TestAScrapeDoesNotEndAHang(t *testing.T) {
	var b Bus
	var conditions []string
	b.Conditions.Subscribe(func(c ConditionChange) { conditions = append(conditions, c.Condition) })
	gpu, hangs := &nvml.GPU{}, errors.New("a call hangs")
	b.ReportCondition(gpu, "healthy", true, nil, epoch)
	for range 2 { // two receivers
		b.ReportHang(gpu, hangs, epoch)
		b.ReportCondition(gpu, "healthy", true, nil, epoch)
	}
	for range 2 {
		b.ReportHang(gpu, nil, epoch)
	}
	assert.Equal(t, []string{"unresponsive", "healthy"}, conditions)
}

func TestALostGPUIsNotUnresponsive(t *testing.T) {
	var b Bus
	var conditions []string
	b.Conditions.Subscribe(func(c ConditionChange) { conditions = append(conditions, c.Condition) })
	gpu := &nvml.GPU{}
	b.ReportHang(gpu, errors.New("a call hangs"), epoch)
	b.ReportCondition(gpu, "lost", false, errors.New("lost"), epoch)
	b.ReportHang(gpu, nil, epoch)
	b.ReportCondition(gpu, "healthy", true, nil, epoch)
	assert.Equal(t, []string{"unresponsive", "lost", "healthy"}, conditions)
}

func TestASubscriberMayReport(t *testing.T) {
	var b Bus
	gpu, n := &nvml.GPU{}, 0
	b.Conditions.Subscribe(func(c ConditionChange) {
		n++
		b.ReportThrottling(c.GPU, "sw_thermal", true, c.Time) // would hang under a lock
		b.Forget(c.GPU)
	})
	b.ReportCondition(gpu, "lost", false, nil, epoch)
	b.ReportCondition(gpu, "lost", false, nil, epoch)
	assert.Equal(t, 2, n, "a GPU that was forgotten is reported again")
	assert.Empty(t, b.gpus)
}

// Two receivers report one GPU at the same time: the last change that is published is
// the one that is stored.
func TestChangesKeepTheirOrder(t *testing.T) {
	var b Bus
	gpu := &nvml.GPU{}
	var mu sync.Mutex
	var last string
	b.Conditions.Subscribe(func(c ConditionChange) {
		mu.Lock()
		defer mu.Unlock()
		assert.NotEqual(t, last, c.Condition, "each change once")
		last = c.Condition
	})
	var receivers sync.WaitGroup
	for _, condition := range []string{"healthy", "lost"} {
		receivers.Go(func() {
			for range 2000 {
				b.ReportCondition(gpu, condition, condition == "healthy", nil, epoch)
			}
		})
	}
	receivers.Wait()
	assert.Equal(t, b.gpus[gpu].condition, last)
	assert.Empty(t, b.pending)
}

// A subscriber reports far more changes than may wait.
func TestChangesBeyondTheLimitAreDroppedAndCounted(t *testing.T) {
	var b Bus
	published, gpu := 0, &nvml.GPU{}
	b.Throttling.Subscribe(func(ThrottlingChange) {
		if published++; published > 1 {
			return
		}
		for i := range maxPending + 100 {
			b.ReportThrottling(gpu, "sw_thermal", i%2 == 1, epoch)
			require.NoError(t, growth.Within(b.Bounds()))
		}
	})
	b.ReportThrottling(gpu, "sw_thermal", true, epoch)
	assert.Equal(t, int64(100), b.Dropped())
	assert.Zero(t, b.Dropped(), "counted once")
	assert.Equal(t, 1+maxPending, published)
}

func TestReportedGPUsAreBounded(t *testing.T) {
	var b Bus
	for range nvml.MaxGPUs + 10 {
		b.ReportCondition(&nvml.GPU{}, "healthy", true, nil, epoch)
		require.NoError(t, growth.Within(b.Bounds()))
	}
}
