// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

// Command gpu-check checks the receiver against the real driver of a machine with a GPU.
// It compares each reading with nvidia-smi's at the same time, idle and under a load
// that it makes with PyTorch, times every NVML call, lists what the GPU does not
// support, and writes all of it to a record. It needs nothing else on the machine.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/calibration"
)

func main() {
	library := flag.String("library", "", "path of the NVML library (default: found by the loader)")
	smi := flag.String("nvidia-smi", "nvidia-smi", "program to compare with")
	record := flag.String("record", "", "folder to write the record to")
	seconds := flag.Int("load", 10, "seconds of load; 0 disables it")
	calibrated := flag.String("calibrate", "", "file to write what was measured of the energy counters to; PyTorch makes the load")
	flag.Parse()
	if *calibrated != "" {
		all, err := calibrate(context.Background(), *library, torch{}, 8)
		if err == nil {
			err = calibration.Write(*calibrated, all)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "gpu-check:", err)
			os.Exit(1)
		}
		return
	}
	r, err := check(context.Background(), *library, *smi, time.Duration(*seconds)*time.Second)
	if err == nil {
		r.print(os.Stdout)
		if *record != "" {
			err = r.write(*record)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gpu-check:", err)
		os.Exit(1)
	}
	if r.Different > 0 {
		os.Exit(1)
	}
}

// report holds the results; its JSON is the record.
type report struct {
	Time      time.Time `json:"time"`
	Driver    string    `json:"driver"`
	Library   string    `json:"library"`
	Simulated bool      `json:"simulated"`
	GPUs      []gpu     `json:"cards"` // words:allow: the key of the records
	// Different counts readings that differ from nvidia-smi's beyond their tolerance.
	Different int `json:"different"`
}

type gpu struct {
	Name  string `json:"name"`
	Model string `json:"model"`
	// Phases are the comparisons at rest and under load.
	Phases map[string][]comparison `json:"phases"`
	// Readings are all that the receiver read in each phase, in its units. Process
	// numbers and container ids are in their names, and nothing else of programs.
	Readings map[string]map[string]float64 `json:"readings"`
	// Unsupported are the families that the GPU switched off, with the reason.
	Unsupported map[string]string `json:"unsupported"`
	// Calls are the times of NVML's calls in microseconds.
	Calls []timing `json:"calls"`
	// Fields are the times that the driver states for field values.
	Fields []fieldTiming `json:"fields"`
	// Points counts the data points of one scrape.
	Points int `json:"points"`
}

func check(ctx context.Context, library, smi string, load time.Duration) (*report, error) {
	rx, err := startReceiver(ctx, library)
	if err != nil {
		return nil, err
	}
	defer rx.stop()
	if err := rx.waitForGPUs(20 * time.Second); err != nil {
		return nil, err
	}
	r := &report{Time: time.Now().UTC().Truncate(time.Second), Library: rx.library(), Driver: rx.driver(), Simulated: rx.simulated()}
	for _, name := range rx.gpus() {
		r.GPUs = append(r.GPUs, gpu{Name: name, Model: rx.model(name), Phases: map[string][]comparison{}, Readings: map[string]map[string]float64{}})
	}
	if err := r.compare(ctx, rx, smi, "idle"); err != nil {
		return nil, err
	}
	if load > 0 {
		if err := underLoad(ctx, load, func() error { return r.compare(ctx, rx, smi, "load") }); err != nil {
			fmt.Fprintln(os.Stderr, "gpu-check: skipped the comparison under load:", err)
		}
	}
	for i := range r.GPUs {
		c := &r.GPUs[i]
		c.Unsupported = rx.unsupported(c.Name)
		c.Points = rx.points(c.Name)
	}
	rx.stop()
	return r, r.timeCalls(library)
}

// compare reads nvidia-smi and the receiver at the same time. Readings change, so a
// difference counts only if it persists in three attempts.
func (r *report) compare(ctx context.Context, rx *receiver, smi, phase string) error {
	for attempt := range 3 {
		r.Different = 0
		before := rx.nextScrape()
		rows, err := askSMI(ctx, smi)
		if err != nil {
			return err
		}
		processes, err := askProcesses(ctx, smi)
		if err != nil {
			return err
		}
		after := rx.nextScrape()
		for i := range r.GPUs {
			c := &r.GPUs[i]
			row, ok := rows[strings.TrimPrefix(c.Name, "gpu")]
			if !ok {
				return fmt.Errorf("nvidia-smi does not list %s", c.Name)
			}
			c.Phases[phase] = append(compareGPU(c.Name, row, before, after), compareProcesses(processes[row["pci.bus_id"]], before[c.Name], after[c.Name])...)
			c.Readings[phase] = after[c.Name]
		}
		for _, c := range r.GPUs {
			for _, comparisons := range c.Phases {
				for _, c := range comparisons {
					if !c.Same {
						r.Different++
					}
				}
			}
		}
		if r.Different == 0 {
			return nil
		}
		if attempt < 2 {
			time.Sleep(500 * time.Millisecond)
		}
	}
	return nil
}

func (r *report) print(w *os.File) {
	fmt.Fprintf(w, "driver %s, library %s, simulated %v\n", r.Driver, r.Library, r.Simulated)
	for _, c := range r.GPUs {
		fmt.Fprintf(w, "\n%s %s: %d points a scrape\n", c.Name, c.Model, c.Points)
		for _, phase := range []string{"idle", "load"} {
			for _, reading := range c.Phases[phase] {
				word := "same"
				if !reading.Same {
					word = "DIFFERENT"
				}
				fmt.Fprintf(w, "  %-5s %-52s receiver %-14s nvidia-smi %-14s %s\n", phase, reading.Metric, reading.Receiver, reading.SMI, word)
			}
		}
		for family, reason := range c.Unsupported {
			fmt.Fprintf(w, "  unsupported %-40s %s\n", family, reason)
		}
		for _, t := range c.Calls {
			fmt.Fprintf(w, "  call %-30s median %8.1f us, max %8.1f us  %s\n", t.Call, t.MedianUS, t.MaxUS, t.Error)
		}
	}
	fmt.Fprintf(w, "\n%d readings differ from nvidia-smi's\n", r.Different)
}

var notWord = regexp.MustCompile(`[^a-z0-9]+`)

// write saves the record under a name made of the model and the driver.
func (r *report) write(folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	model := "none"
	if len(r.GPUs) > 0 {
		model = r.GPUs[0].Model
	}
	name := strings.Trim(notWord.ReplaceAllString(strings.ToLower(model+"-"+r.Driver), "-"), "-") + ".json"
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(folder, name)
	fmt.Println("record:", path)
	return os.WriteFile(path, append(raw, '\n'), 0o644)
}
