package e2e

import (
	"context"
	"flag"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/figure"
	"github.com/otelcol-gpu/otelcol-gpu/internal/stack"
	"github.com/otelcol-gpu/otelcol-gpu/testdata/fakenvml"
)

var faultTime = flag.Duration("fault", 5*time.Second, "how long each fault lasts in TestFaultsOfOneCardCostTheOthersNothing")

// TestFaultsOfOneCardCostTheOthersNothing gives one of eight cards one fault
// after another, and asks a real Prometheus what the others missed.
func TestFaultsOfOneCardCostTheOthersNothing(t *testing.T) {
	const interval, cardTimeout = time.Second, 500 * time.Millisecond
	m := newMachine(t, fakenvml.Current, "l40s", "l40s", "l40s", "l40s", "l40s", "l40s", "l40s", "l40s")
	store, _ := prometheus(t, "10m")
	c := collect(t, "default.yaml", append(m.environment, "OTELCOL_GPU_COLLECTION_INTERVAL="+interval.String(), "OTELCOL_GPU_REMOTE_WRITE_ENDPOINT="+store.URL+"/api/v1/write"),
		"--config=yaml:receivers::nvml::card_timeout: "+cardTimeout.String())
	eventually(t, store, "hw_gpu_up == 1", atLeast(8))
	card := m.cards[5]
	id := eventually(t, store, `hw_gpu_up{hw_name="gpu5"}`, atLeast(1))[0].Labels["hw_id"]

	var works func() // ends the fault that runs
	failing := func(code int64) func() { return func() { works = card.FailEveryCall(code) } }
	for _, fault := range []struct {
		name         string
		begin, clear func()
	}{
		{"lost", func() { card.SetLost(true) }, func() { card.SetLost(false) }},
		{"hangs", func() { card.SetHang("nvmlDeviceGetTemperature", true) }, func() { card.SetHang("nvmlDeviceGetTemperature", false) }},
		{"slow_call", func() { card.SetDelay("nvmlDeviceGetTemperature", 2*time.Second) }, func() { card.SetDelay("nvmlDeviceGetTemperature", 0) }},
		{"every_call_fails", failing(fakenvml.Unknown), func() { works() }},
		{"unknown_code", failing(4711), func() { works() }},
		{"removed", func() { card.SetPresent(false) }, func() { card.SetPresent(true) }},
	} {
		lines := logLines(t, c.Process, "\twarn\t") + logLines(t, c.Process, "\terror\t")
		begin := time.Now()
		fault.begin()
		eventually(t, store, fmt.Sprintf(`hw_gpu_up{hw_id="%s"} == 0`, id), atLeast(1))
		eventually(t, store, fmt.Sprintf(`hw_gpu_memory_usage_bytes{hw_id="%s"}`, id), func(s []stack.Series) bool { return len(s) == 0 })
		reported := time.Since(begin)
		require.Eventually(t, func() bool { return time.Since(begin) >= *faultTime }, *faultTime+patience, 50*time.Millisecond)
		fault.clear()
		cleared := time.Now()
		eventually(t, store, fmt.Sprintf(`hw_gpu_up{hw_id="%s"} == 1 and on(hw_id) hw_gpu_memory_usage_bytes`, id), atLeast(1))
		back := time.Since(cleared)

		// Between the fault and its end every other card has a sample of every
		// collection; hw.gpu.count, which asks no card, tells how many there were.
		end := time.Now()
		window := int(end.Sub(begin).Seconds())
		collections, err := store.QueryAt(context.Background(), fmt.Sprintf(`count_over_time(hw_gpu_count{state="healthy"}[%ds])`, window), end)
		require.NoError(t, err)
		require.Len(t, collections, 1)
		others, err := store.QueryAt(context.Background(), fmt.Sprintf(`sum by (hw_id) (count_over_time(hw_temperature_celsius{hw_id!="%s"}[%ds]))`, id, window), end)
		require.NoError(t, err)
		require.Len(t, others, 7)
		lost := 0.0
		for _, s := range others {
			lost += max(0, collections[0].Value()-s.Value())
		}
		said := logLines(t, c.Process, "\twarn\t") + logLines(t, c.Process, "\terror\t") - lines
		figure.AtMost("faults."+fault.name+".samples_lost_on_others", lost, "samples", 0)
		figure.AtMost("faults."+fault.name+".reported_after", reported.Seconds(), "s", (interval+cardTimeout).Seconds()+0.5)
		figure.Print("faults."+fault.name+".back_after", back.Seconds(), "s")
		figure.AtMost("faults."+fault.name+".log_lines", float64(said), "lines", 2)
		assert.Zero(t, lost, "%s: the others lost samples", fault.name)
		assert.LessOrEqual(t, said, 2, "%s floods the log", fault.name)
	}
}
