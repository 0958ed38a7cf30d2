// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
	"github.com/otelcol-gpu/otelcol-gpu/lab/stack"
)

// job watches the samples that arrive.
type job struct {
	*settings
	store             stack.Store
	collector, server *stack.Process
	gpus              int
	users             bool // prompts must arrive too
	begin             time.Time
}

// prompts counts those that ended since the collector's start.
func (j *job) prompts(ctx context.Context) (float64, error) {
	series, err := j.store.Query(ctx, fmt.Sprintf("sum(comfyui_prompts_total and timestamp(comfyui_prompts_total) >= %d)", j.begin.Unix()))
	if err != nil || len(series) == 0 {
		return 0, err
	}
	return series[0].Value(), nil
}

const readyWithin = 60 * time.Second

// untilReady waits until the first samples of every GPU can be queried.
func (j *job) untilReady(ctx context.Context) error {
	deadline := time.NewTimer(readyWithin)
	defer deadline.Stop()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		// What an earlier run left in the store does not count.
		series, err := j.store.Query(ctx, fmt.Sprintf("hw_gpu_up == 1 and timestamp(hw_gpu_up) >= %d", j.begin.Unix()))
		prompts := 0.0
		if err == nil && len(series) >= j.gpus && j.users {
			prompts, err = j.prompts(ctx)
		}
		if err == nil && len(series) >= j.gpus && (!j.users || prompts > 0) {
			and := ""
			if j.users {
				and = " and the first prompt"
			}
			fmt.Printf("\nREADY: samples of %d GPUs%s can be queried, %.1f s after the collector started\n", len(series), and, time.Since(j.begin).Seconds())
			printReadyFigure()
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-j.collector.Exited():
			return fmt.Errorf("the collector exited:\n%s", j.collector.Tail())
		case <-j.server.Exited():
			return fmt.Errorf("the store exited:\n%s", j.server.Tail())
		case <-deadline.C:
			return fmt.Errorf("after %v samples of %d of %d GPUs and %.0f prompts have arrived; the collector's log ends with:\n%s", readyWithin, len(series), j.gpus, prompts, j.collector.Tail())
		case <-ticker.C:
		}
	}
}

// printReadyFigure prints the time since make was called. It has a goal only if nothing
// was cached: make passes both.
func printReadyFigure() {
	began, err := strconv.ParseInt(os.Getenv("RUN_BEGIN"), 10, 64)
	if err != nil {
		return
	}
	seconds := time.Since(time.Unix(began, 0)).Seconds()
	if os.Getenv("RUN_CACHES") == "empty" {
		figure.AtMost("run.ready_from_nothing", seconds, "s", 210)
	} else {
		figure.Print("run.ready", seconds, "s")
	}
}

// watch runs until the time is over or the user stops it, and checks what arrived.
func (j *job) watch(ctx context.Context) error {
	var over <-chan time.Time
	if j.seconds > 0 {
		over = time.After(time.Duration(j.seconds) * time.Second)
		fmt.Printf("running for %d s\n", j.seconds)
	} else {
		fmt.Println("press Ctrl-C to stop")
	}
	select {
	case <-ctx.Done():
		fmt.Println("\nstopping")
		return nil
	case <-j.collector.Exited():
		return fmt.Errorf("the collector exited:\n%s", j.collector.Tail())
	case <-j.server.Exited():
		return fmt.Errorf("the store exited:\n%s", j.server.Tail())
	case <-over:
	}
	window := max(5*time.Second, 3*j.interval)
	series, err := j.store.Query(ctx, fmt.Sprintf("count_over_time(hw_gpu_up[%dms])", window.Milliseconds()))
	if err != nil {
		return err
	}
	if len(series) < j.gpus {
		return fmt.Errorf("in the last %v samples of %d of %d GPUs arrived; the collector's log ends with:\n%s", window, len(series), j.gpus, j.collector.Tail())
	}
	total, err := j.store.Query(ctx, fmt.Sprintf(`sum(count_over_time({__name__=~"hw_.*"}[%ds]))`, int(time.Since(j.begin).Seconds())+1))
	if err == nil && len(total) > 0 {
		fmt.Printf("done: %.0f samples of %d GPUs arrived\n", total[0].Value(), len(series))
	}
	if j.users {
		prompts, err := j.prompts(ctx)
		if err != nil {
			return err
		}
		fmt.Printf("done: %.0f prompts ended\n", prompts)
	}
	return nil
}
