// SPDX-License-Identifier: Apache-2.0

package gpucorrelationconnector

import (
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"

	"github.com/otelcol-gpu/otelcol-gpu/internal/configkeys"
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
	// taken to be wrong. Default: 1s.
	MaxAhead time.Duration `mapstructure:"max_ahead"`

	Limits LimitsConfig `mapstructure:"limits"`
}

// LimitsConfig bounds what the connector holds. What is beyond is counted, and
// passed on where it is a span or a record.
type LimitsConfig struct {
	// Spans wait at most, and Bytes of memory (estimated). Default: 100000, 64 MiB.
	Spans int `mapstructure:"spans"`
	Bytes int `mapstructure:"bytes"`
	// GPUs are told apart. Default: 128, MIG devices included.
	GPUs int `mapstructure:"cards"`
	// Samples are kept of one quantity of one GPU. Default: 20000.
	Samples int `mapstructure:"samples"`
	// Processes of one GPU have a memory history of their own. Default: 64.
	Processes int `mapstructure:"processes"`
	// Traces are remembered of one GPU, to share its time among those that overlap.
	// Default: 20000.
	Traces int `mapstructure:"traces"`
	// Records wait at most for a trace that ran then. Default: 10000.
	Records int `mapstructure:"records"`
}

func createDefaultConfig() component.Config {
	return &Config{
		Wait: 10 * time.Second, History: 10 * time.Minute, MaxGap: time.Second, MaxAhead: time.Second,
		DeviceAttributes: []string{"hw.id"},
		Limits:           LimitsConfig{Spans: 100_000, Bytes: 64 << 20, GPUs: 128, Samples: 20_000, Processes: 64, Traces: 20_000, Records: 10_000},
	}
}

// Unmarshal refuses keys that are not known, naming the nearest that is.
func (c *Config) Unmarshal(conf *confmap.Conf) error {
	known := confmap.New()
	if err := known.Marshal(c); err != nil {
		return err
	}
	all := known.ToStringMap()
	all["clock_offsets"] = nil // its keys are hosts
	if err := configkeys.Unknown("", conf.ToStringMap(), all); err != nil {
		return err
	}
	return conf.Unmarshal(c)
}

// Validate reports every mistake with its key, its value and the remedy.
func (c *Config) Validate() error {
	var errs []error
	for key, d := range map[string]time.Duration{"wait": c.Wait, "history": c.History, "max_gap": c.MaxGap} {
		if d <= 0 {
			errs = append(errs, fmt.Errorf("%s: %v is not positive: give a duration such as 10s, or leave it out for the default", key, d))
		}
	}
	if c.History > 0 && c.Wait >= c.History {
		errs = append(errs, fmt.Errorf("history: %v is not longer than wait (%v), so that samples would be gone before a trace gets them: raise history or lower wait", c.History, c.Wait))
	}
	if c.MaxAhead < 0 {
		errs = append(errs, fmt.Errorf("max_ahead: %v is negative: give a duration such as 1s", c.MaxAhead))
	}
	if len(c.DeviceAttributes) == 0 {
		errs = append(errs, errors.New("device_attributes: the list is empty: name the attribute that holds a GPU's UUID, such as hw.id"))
	}
	for i, name := range c.DeviceAttributes {
		if name == "" {
			errs = append(errs, fmt.Errorf("device_attributes::%d: it is empty: name an attribute such as hw.id", i))
		}
	}
	for key, n := range map[string]int{
		"spans": c.Limits.Spans, "bytes": c.Limits.Bytes, "cards": c.Limits.GPUs, "samples": c.Limits.Samples,
		"processes": c.Limits.Processes, "traces": c.Limits.Traces, "records": c.Limits.Records,
	} {
		if n < 1 {
			errs = append(errs, fmt.Errorf("limits::%s: %d is less than 1: give a positive number, or leave it out for the default", key, n))
		}
	}
	return errors.Join(errs...)
}
