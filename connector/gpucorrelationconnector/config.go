// SPDX-License-Identifier: Apache-2.0

package gpucorrelationconnector

import (
	"fmt"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpucorrelationconnector/internal/join"
	"github.com/otelcol-gpu/otelcol-gpu/internal/configkeys"
	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
)

// Config is the configuration of one gpucorrelation connector.
type Config struct {
	// Wait is how long a finished trace waits at most for the samples that cover its
	// end. Default: 10s.
	Wait time.Duration `mapstructure:"wait"`

	// History is how far back samples are kept: figures of longer spans are estimates.
	// Default: 10m.
	History time.Duration `mapstructure:"history"`

	// MaxGap is the longest time between two samples within a span beyond which its
	// figures are marked as an estimate. Default: 1s.
	MaxGap time.Duration `mapstructure:"max_gap"`

	// DeviceAttributes are the attributes of a span or its resource that name a GPU
	// by its UUID; the first that is there counts. Default: [hw.id].
	DeviceAttributes []string `mapstructure:"device_attributes"`

	// ClockOffsets say how far the clocks of other hosts (host.name of the spans) are
	// ahead of this one's. Spans of hosts that are not named get no figures.
	ClockOffsets map[string]time.Duration `mapstructure:"clock_offsets"`

	// MaxAhead is how far beyond this host's clock a span may end before its clock is
	// assumed to be wrong. Default: 1s.
	MaxAhead time.Duration `mapstructure:"max_ahead"`

	Energy EnergyConfig `mapstructure:"energy"`

	Limits join.Limits `mapstructure:"limits"`
}

// EnergyConfig says how the energy of the GPUs is read.
type EnergyConfig struct {
	// Gain is the counter's energy divided by that of a meter: energies are divided by it.
	// Default: 1, which nobody measured.
	Gain float64 `mapstructure:"gain"`

	// RestPower is what a GPU draws while no process uses it, in W. Default: 0, it is
	// measured.
	RestPower float64 `mapstructure:"rest_power"`

	// Calibration is a file that make gpu-check CALIBRATE=FILE wrote. Default: none.
	Calibration string `mapstructure:"calibration"`
}

// joinSettings are the joiner's part of the configuration.
func (c *Config) joinSettings() join.Settings {
	return join.Settings{
		Wait: c.Wait, History: c.History, MaxGap: c.MaxGap, DeviceAttributes: c.DeviceAttributes,
		ClockOffsets: c.ClockOffsets, MaxAhead: c.MaxAhead, Limits: c.Limits,
		Energy: join.EnergySettings{Gain: c.Energy.Gain, RestPower: c.Energy.RestPower},
	}
}

func createDefaultConfig() component.Config {
	return &Config{
		Wait: 10 * time.Second, History: 10 * time.Minute, MaxGap: time.Second, MaxAhead: time.Second,
		DeviceAttributes: []string{semconv.GPUID}, Energy: EnergyConfig{Gain: 1},
		Limits: join.Limits{Spans: 100_000, Bytes: 64 << 20, GPUs: 128, Samples: 20_000, Processes: 64, Traces: 20_000, Records: 10_000},
	}
}

// Unmarshal refuses what [configkeys.Unmarshal] refuses.
func (c *Config) Unmarshal(conf *confmap.Conf) error { return configkeys.Unmarshal(conf, c) }

const (
	// minGain and maxGain bound what a counter can be off by.
	minGain, maxGain = 0.2, 5.0
	// maxRestPower is more than any GPU draws at rest, in W.
	maxRestPower = 500.0
)

// Validate reports every mistake with its key, its value and the remedy.
func (c *Config) Validate() error {
	var p configkeys.Problems
	for _, d := range []struct {
		key   string
		value time.Duration
	}{{"wait", c.Wait}, {"history", c.History}, {"max_gap", c.MaxGap}} {
		p.AddIf(d.value <= 0, d.key, d.value, "is not positive", "use a duration such as 10s, or omit the key for the default")
	}
	p.AddIf(
		c.History > 0 && c.Wait >= c.History,
		"history",
		c.History,
		fmt.Sprintf("is not longer than wait (%v), so samples would be dropped before a trace is joined with them", c.Wait),
		"raise history or lower wait",
	)
	p.AddIf(
		!(c.Energy.Gain >= minGain && c.Energy.Gain <= maxGain),
		"energy::gain",
		c.Energy.Gain,
		fmt.Sprintf("is not between %v and %v", minGain, maxGain),
		"use the counter's energy divided by the meter's, for example 0.97, or omit the key for 1",
	)
	p.AddIf(
		!(c.Energy.RestPower >= 0 && c.Energy.RestPower <= maxRestPower),
		"energy::rest_power",
		c.Energy.RestPower,
		fmt.Sprintf("is not between 0 and %v W", maxRestPower),
		"use the GPU's power while nothing runs, for example 60, or omit the key to measure it",
	)
	p.AddIf(c.MaxAhead < 0, "max_ahead", c.MaxAhead, "is negative", "use a positive duration, for example 1s")
	p.AddIf(
		len(c.DeviceAttributes) == 0,
		"device_attributes",
		nil,
		"the list is empty",
		"name the attribute that holds a GPU's UUID, for example [hw.id]",
	)
	for i, name := range c.DeviceAttributes {
		p.AddIf(name == "", fmt.Sprintf("device_attributes::%d", i), name, "is not a valid attribute name", "use an attribute such as hw.id")
	}
	for _, l := range []struct {
		key   string
		value int
	}{
		{"spans", c.Limits.Spans}, {"bytes", c.Limits.Bytes}, {"cards", c.Limits.GPUs}, {"samples", c.Limits.Samples},
		{"processes", c.Limits.Processes}, {"traces", c.Limits.Traces}, {"records", c.Limits.Records},
	} {
		p.AddIf(l.value < 1, "limits::"+l.key, l.value, "is less than 1", "use a positive number, or omit the key for the default")
	}
	return p.Err()
}
