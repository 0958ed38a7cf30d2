// SPDX-License-Identifier: Apache-2.0

// Package calibration is the file in which gpu-check stores what it measured of GPUs'
// energy counters, and from which the gpucorrelation connector reads it.
package calibration

import (
	"bytes"
	"fmt"
	"os"
	"time"

	"go.yaml.in/yaml/v3"
)

// Counter is what was measured of one GPU's energy counter.
type Counter struct {
	// GPU is its hw.id, Model its hw.model: GPUs that are not in the file are taken to be as
	// the first of their model.
	GPU   string `yaml:"gpu"`
	Model string `yaml:"model"`
	// Period is the time between two steps; 0 if it is not longer than that between two reads.
	Period time.Duration `yaml:"period"`
	// Lag is how long after its time a step can be seen.
	Lag time.Duration `yaml:"lag"`
	// Share is the part of the time in which the counter samples the power.
	Share float64 `yaml:"share"`
	// Ratio is the counter's energy divided by the integrated instant power.
	Ratio float64 `yaml:"ratio,omitempty"`
}

type file struct {
	Counters []Counter `yaml:"counters"`
}

// maxCounters bounds the GPUs of a file.
const maxCounters = 1024

// Read reads a file.
func Read(path string) ([]Counter, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the calibration: %w; write one with make gpu-check CALIBRATE=%s", err, path)
	}
	var f file
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&f); err != nil {
		return nil, fmt.Errorf("the calibration %s is not valid: %w; write it again with make gpu-check CALIBRATE=%s", path, err, path)
	}
	if len(f.Counters) > maxCounters {
		return nil, fmt.Errorf("the calibration %s has %d counters, more than %d", path, len(f.Counters), maxCounters)
	}
	for i := range f.Counters {
		c := &f.Counters[i]
		if c.GPU == "" && c.Model == "" || c.Period < 0 || c.Lag < 0 || c.Lag > time.Second || c.Share <= 0 || c.Share > 1 {
			return nil, fmt.Errorf("counter %d of the calibration %s is not valid: it needs a gpu or a model, a lag up to 1s and a share above 0 and up to 1", i, path)
		}
	}
	return f.Counters, nil
}

// Write writes a file.
func Write(path string, counters []Counter) error {
	var b bytes.Buffer
	b.WriteString("# What make gpu-check CALIBRATE=FILE measured of the energy counters of this machine's GPUs;\n# the gpucorrelation connector reads it (energy::calibration).\n")
	encoder := yaml.NewEncoder(&b)
	encoder.SetIndent(2)
	if err := encoder.Encode(file{counters}); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}
