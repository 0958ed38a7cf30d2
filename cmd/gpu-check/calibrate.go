// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/internal/calibration"
	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
)

// torchWave works on a GPU in a square wave of several periods, each for some seconds. It
// prints when the load was on.
const torchWave = `
import sys, time, torch
a = torch.randn(2048, 2048, device="cuda", dtype=torch.float16)
b = torch.randn(2048, 2048, device="cuda", dtype=torch.float16)
def work(until):
    while time.time_ns() < until:
        for _ in range(4): c = a @ b
        torch.cuda.synchronize()
work(time.time_ns() + 2_000_000_000)
time.sleep(1)
for period in (130, 170, 230, 310, 470, 730):
    for _ in range(int(sys.argv[1]) * 1000 // period):
        begin = time.time_ns()
        work(begin + period * 500_000)
        end = time.time_ns()
        print(begin, end, flush=True)
        time.sleep(max(begin + period * 1_000_000 - end, 0) / 1e9)
`

// wave makes the load on a GPU and returns when it was on. It ends when the context does.
type wave interface {
	on(ctx context.Context, gpu *nvml.GPU, seconds int) ([]calibration.Interval, error)
}

// torch is the load that PyTorch makes.
type torch struct{}

func (torch) on(ctx context.Context, gpu *nvml.GPU, seconds int) (all []calibration.Interval, err error) {
	cmd := exec.CommandContext(ctx, "python3", "-c", torchWave, strconv.Itoa(seconds))
	cmd.Env = append(os.Environ(), "CUDA_VISIBLE_DEVICES="+gpu.Identity().UUID)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the load: %w", err)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var w calibration.Interval
		if _, err := fmt.Sscan(lines.Text(), &w.From, &w.To); err == nil {
			all = append(all, w)
		}
	}
	if err := cmd.Wait(); err != nil {
		last := strings.Split(strings.TrimSpace(stderr.String()), "\n")
		return nil, errors.New("make the load with PyTorch: " + last[len(last)-1])
	}
	return all, nil
}

// calibrate measures the energy counters of all GPUs, one after the other.
func calibrate(ctx context.Context, library string, w wave, seconds int) (all []calibration.Counter, err error) {
	sessions := nvml.NewSessions(nvml.Timing{})
	session, err := sessions.Acquire(library, zap.NewNop())
	if err != nil {
		return nil, err
	}
	defer sessions.Release(context.Background())
	select {
	case <-session.Inspected():
	case <-time.After(20 * time.Second):
		return nil, errors.New("the driver did not respond within 20s")
	}
	for _, gpu := range session.Snapshot().GPUs {
		name := fmt.Sprintf("gpu%d", gpu.Identity().Index)
		c, err := calibrateGPU(ctx, gpu, w, seconds)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		steps := "every " + c.Period.String()
		if c.Period == 0 {
			steps = "with each reading"
		}
		fmt.Printf("%s: the energy counter steps %s, is %v late, samples %.0f %% of the time, and counts %.3f of the integrated instant power\n", name, steps, c.Lag, 100*c.Share, c.Ratio)
		all = append(all, c)
	}
	return all, nil
}

// readInterval is the time between two readings: a fraction of the shortest period.
const readInterval = 5 * time.Millisecond

func calibrateGPU(ctx context.Context, gpu *nvml.GPU, w wave, seconds int) (calibration.Counter, error) {
	reading, stop := context.WithCancel(ctx)
	defer stop()
	type result struct {
		readings []calibration.Reading
		err      error
	}
	done := make(chan result, 1)
	if !gpu.Submit(func() {
		readings, err := readCounter(reading, gpu.Device())
		done <- result{readings, err}
	}) {
		return calibration.Counter{}, errors.New("the GPU does not respond")
	}
	on, err := w.on(ctx, gpu, seconds)
	stop()
	r := <-done
	if err := errors.Join(err, r.err); err != nil {
		return calibration.Counter{}, err
	}
	c, err := calibration.Estimate(on, r.readings)
	c.GPU = gpu.Identity().UUID
	c.Model, _ = gpu.Device().Name()
	return c, err
}

// readCounter reads the energy counter and the instant power until the context ends.
func readCounter(ctx context.Context, d nvml.Device) (all []calibration.Reading, err error) {
	ticker := time.NewTicker(readInterval)
	defer ticker.Stop()
	for {
		mj, err := d.TotalEnergy()
		if err != nil {
			return nil, fmt.Errorf("read the energy counter: %w", err)
		}
		r := calibration.Reading{At: time.Now().UnixNano(), Joules: float64(mj) / 1000}
		values := []nvml.FieldValue{{FieldId: nvml.FieldPowerInstant}}
		if d.FieldValues(values) == nil {
			if mw, err := nvml.FieldNumber(&values[0]); err == nil {
				r.Watts = mw / 1000
			}
		}
		all = append(all, r)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return all, nil
		}
	}
}
