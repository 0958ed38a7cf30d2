// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
	"github.com/otelcol-gpu/otelcol-gpu/lab/simulation"
)

// notOnThePage are alerts whose cause the page cannot show, or not in the time of a test: its
// windows and thresholds are those of the shipped alerts, which the test has shorter.
var notOnThePage = map[string]string{
	"Watchdog":                "it fires always",
	"GPUTelemetryMissing":     "the page ends with its collector",
	"GPUTelemetrySlow":        "of the collector's own telemetry",
	"CollectorExportFailing":  "of the collector's own telemetry",
	"CollectorBacklogGrowing": "of the collector's own telemetry",
	"CollectorDataDropped":    "of the collector's own telemetry",
	"GPUMemoryLeakSuspected":  "it looks back for six hours, the page for half of one",
}

// sooner are settings with which conditions show that wait for a long time as they are shipped:
// their rules and windows stay.
const sooner = "yaml:connectors::gpuadvisor::conditions::after: {gpu.idle: 10s, gpu.memory.short: 10s, comfyui.loading: 10s}"

// adviceOften has the connector's metrics emitted within the shorter times of the rules.
const adviceOften = "yaml:connectors::gpuadvisor::collection_interval: 1s"

// causesSeen are the alerts that pages named as those of their conditions.
type causesSeen struct {
	of   []livePage
	seen map[string]bool
}

func newCausesSeen(of ...livePage) *causesSeen { return &causesSeen{of, map[string]bool{}} }

// collect adds what the pages have now. A collector that has ended has no page.
func (c *causesSeen) collect(t *testing.T) {
	t.Helper()
	for _, p := range c.of {
		s, err := p.state()
		if err != nil {
			continue
		}
		for _, condition := range s.Conditions {
			c.seen[condition.Alert] = true
		}
	}
	delete(c.seen, "") // conditions without an alert
}

// check waits until each of the alerts, but those that a page cannot show, was seen.
func (c *causesSeen) check(t *testing.T, alerts map[string]bool, again <-chan time.Time) {
	t.Helper()
	missing := func() (all []string) {
		for _, name := range slices.Sorted(maps.Keys(alerts)) {
			if notOnThePage[name] == "" && !c.seen[name] {
				all = append(all, name)
			}
		}
		return all
	}
	for deadline := time.Now().Add(2 * patience); len(missing()) > 0 && time.Now().Before(deadline); c.collect(t) {
		<-again
	}
	assert.Empty(t, missing(), "alerts without their cause on a page")
	for name := range notOnThePage {
		assert.True(t, alerts[name], "%s is not an alert", name)
	}
	figure.AtLeast("page.causes", float64(len(c.seen)), "alerts", float64(len(alerts)-len(notOnThePage)))
}

// slow has a prompt run for more than the half minute that ten others wait for it, which is the
// objective of the shipped alert.
func (f *failingServers) slow(ctx context.Context, causing *sync.WaitGroup) {
	server := f.comfyui[slowServer]
	users := simulation.NewUsers("http://" + server.proxy)
	submit := func(client string, steps int) {
		_ = users.Generate(ctx, client, []simulation.Image{{Checkpoint: "v1-5-pruned-emaonly-fp16.safetensors", Side: 512, Batch: 1, Steps: steps}})
	}
	causing.Go(func() { submit("client-slow", 600) }) // of 56 ms
	causing.Go(func() {
		poll := time.NewTicker(20 * time.Millisecond)
		defer poll.Stop()
		for queue, err := "", error(nil); err != nil || !strings.Contains(queue, "client-slow"); queue, err = get(server.server.URL + "/queue") {
			select {
			case <-ctx.Done():
				return
			case <-poll.C:
			}
		}
		for i := range 10 {
			causing.Go(func() { submit(fmt.Sprint("client-waits-", i), 2+i) })
		}
	})
}

// short has another program hold most of the memory that prompts have used. Less than a GPU that is
// full, whose alert inhibits this one.
func (f *failingServers) short(ctx context.Context, t *testing.T, causing *sync.WaitGroup) {
	service, users := f.services[shortServer], simulation.NewUsers("http://"+f.comfyui[shortServer].proxy)
	var end func()
	t.Cleanup(func() {
		if end != nil {
			end()
		}
	})
	causing.Go(func() {
		for i := range 4 {
			_ = users.Order(ctx, fmt.Sprint("client-short-", i), []simulation.Photo{{Side: 1280}})
		}
		service.Free()
		end = service.Occupy(4343, 0.93)
	})
}
