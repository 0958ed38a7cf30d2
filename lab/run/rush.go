// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/lab/simulation"
)

// rush is the article's failure on the simulated ComfyUI's GPU: eight large photos at once, and
// then a GPU that is full until the article's critical rule has fired.
type rush struct {
	*settings
	service *simulation.Service
	users   *simulation.Users
	comfyui string // past the proxy
	store   string

	turn sync.Mutex // held by the rush that is on
}

const (
	rushAlert = "GPUMemoryUsageCritical"
	rushShare = 0.97 // of the GPU's memory; the rule fires above 0.95

	// The GPU is full for rushLook after the alert has fired, so that it can be looked at, and
	// for rushAtMost if it does not fire.
	rushLook   = 2 * time.Minute
	rushAtMost = 10 * time.Minute

	// otherProgram is above the largest process id of Linux: no process of this machine has it.
	otherProgram = 1<<22 + 1
)

// run causes one and reports what happens, until it is over or the context ends.
func (r *rush) run(ctx context.Context) {
	if !r.turn.TryLock() {
		fmt.Println("rush       is on already")
		return
	}
	defer r.turn.Unlock()
	r.users.Rush()
	fmt.Printf("\nrush       eight photos of 1280 pixels at once: the queue grows, the GPU is busy\n           %s/vmui/?#/?g0.expr=comfyui_queue_length&g0.range_input=5m\n", r.store)
	r.waitUntil(ctx, time.Minute, func() bool { return r.queued(ctx) == 0 })

	full, release := context.WithCancel(ctx)
	var other sync.WaitGroup
	other.Go(func() { r.service.KeepOccupied(full, otherProgram, rushShare) })
	defer other.Wait()
	defer release()
	begin := time.Now()
	fmt.Printf("rush       another program fills the GPU's memory to %.0f %%: prompts fail with out_of_memory, and %s fires after a minute\n", 100*rushShare, rushAlert)
	fired := r.waitUntil(ctx, rushAtMost, func() bool { return r.firing(ctx) })
	if ctx.Err() != nil {
		return
	}
	if !fired {
		fmt.Printf("rush       over: %s did not reach Alertmanager within %v; its log and vmalert's are in %s\n", rushAlert, rushAtMost, r.folder)
		return
	}
	fmt.Printf("rush       %s fired: it is in Alertmanager %.0f s after the GPU was full. Look at it within the next two minutes:\n", rushAlert, time.Since(begin).Seconds())
	fmt.Printf("           %s\n           %s\n", r.alertsPage(r.store), r.amtool())
	if id := r.failedPrompt(ctx); id != "" {
		fmt.Printf("           a prompt that failed, in the logs by its trace id:\n           %s/select/vmui/#/?query=trace_id:=%s\n           curl '%s/select/logsql/query?query=trace_id:=%s'\n", r.logStore(), id, r.logStore(), id)
	}
	r.waitUntil(ctx, rushLook, func() bool { return false })
	if ctx.Err() == nil {
		fmt.Println("rush       over: the memory is free again, and the alert ends")
	}
}

// waitUntil waits until a condition holds, and reports whether it did in time.
func (r *rush) waitUntil(ctx context.Context, within time.Duration, holds func() bool) bool {
	over := time.NewTimer(within)
	defer over.Stop()
	ticker := time.NewTicker(500 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-over.C:
			return false
		case <-ticker.C:
			if holds() {
				return true
			}
		}
	}
}

// queued is how many prompts wait at the simulated ComfyUI; -1: it did not answer.
func (r *rush) queued(ctx context.Context) int {
	var queue struct {
		Pending []any `json:"queue_pending"`
	}
	if json.Unmarshal(fetch(ctx, r.comfyui+"/queue"), &queue) != nil {
		return -1
	}
	return len(queue.Pending)
}

// firing reports whether Alertmanager has the alert.
func (r *rush) firing(ctx context.Context) bool {
	var alerts []any
	return json.Unmarshal(fetch(ctx, r.alertmanager()+"/api/v2/alerts?active=true&filter="+url.QueryEscape("alertname="+rushAlert)), &alerts) == nil && len(alerts) > 0
}

// failedPrompt is the trace id of the last prompt that failed, by the logs.
func (r *rush) failedPrompt(ctx context.Context) string {
	var record struct {
		Trace string `json:"trace_id"`
	}
	query := `event_name:="comfyui.prompt.error" | sort by (_time) desc | limit 1 | fields trace_id`
	if json.Unmarshal(fetch(ctx, r.logStore()+"/select/logsql/query?query="+url.QueryEscape(query)), &record) != nil {
		return ""
	}
	return record.Trace
}

// fetch is what a URL answers; nil if it is not there.
func fetch(ctx context.Context, url string) []byte {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 16<<20))
	if err != nil || response.StatusCode != http.StatusOK {
		return nil
	}
	return text
}
