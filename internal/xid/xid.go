// SPDX-License-Identifier: Apache-2.0

// Package xid is the catalogue of what NVIDIA's driver reports of a GPU: XIDs, the numbers
// of its errors, and other events.
package xid

import (
	_ "embed"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"go.opentelemetry.io/collector/pdata/plog"
	"go.yaml.in/yaml/v3"
)

//go:embed catalogue.yaml
var catalogue []byte

// Tier is what an XID asks for.
type Tier string

// The tiers, from the worst. Reboot and Reset are critical: the GPU is unusable until
// then.
const (
	Reboot        Tier = "reboot"
	Reset         Tier = "reset"
	Workflow      Tier = "workflow"
	Application   Tier = "application"
	Informational Tier = "informational"
	Unknown       Tier = "unknown"
)

// Meaning is what a record says of a tier or an event.
type Meaning struct {
	Severity Severity `yaml:"severity"`
	// Advice is what to do.
	Advice string `yaml:"advice"`
}

// Severity is written by its name, such as Error2.
type Severity plog.SeverityNumber

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Severity) UnmarshalText(text []byte) error {
	for n := plog.SeverityNumberTrace; n <= plog.SeverityNumberFatal4; n++ {
		if n.String() == string(text) {
			*s = Severity(n)
			return nil
		}
	}
	return fmt.Errorf("%q is not a valid severity", text)
}

// Error is one XID.
type Error struct {
	XID     uint64     `yaml:"xid"`
	Name    string     `yaml:"name"`
	Tier    Tier       `yaml:"tier"`
	Meaning `yaml:"-"` // the tier's
}

// Critical reports whether the GPU is unusable until it is reset or the node rebooted.
func (e Error) Critical() bool { return e.Tier == Reset || e.Tier == Reboot }

// Catalogue is catalogue.yaml.
type Catalogue struct {
	Tiers map[Tier]Meaning `yaml:"tiers"`
	// Events are the driver's events other than XIDs, by their kind.
	Events map[string]Meaning `yaml:"events"`
	XIDs   []Error            `yaml:"xids"`

	byXID    map[uint64]Error
	critical []string
}

// Load reads the catalogue.
func Load() (*Catalogue, error) {
	c := &Catalogue{byXID: map[uint64]Error{}}
	if err := yaml.Unmarshal(catalogue, c); err != nil {
		return nil, fmt.Errorf("XID catalogue: %w", err)
	}
	for _, e := range c.XIDs {
		meaning, known := c.Tiers[e.Tier]
		if !known {
			return nil, fmt.Errorf("XID catalogue: %d has the unknown tier %q", e.XID, e.Tier)
		}
		if _, twice := c.byXID[e.XID]; twice {
			return nil, fmt.Errorf("XID catalogue: %d is listed twice", e.XID)
		}
		e.Meaning = meaning
		c.byXID[e.XID] = e
	}
	for _, n := range slices.Sorted(maps.Keys(c.byXID)) {
		if c.byXID[n].Critical() {
			c.critical = append(c.critical, strconv.FormatUint(n, 10))
		}
	}
	return c, nil
}

// Find is the entry of an XID; one that is not known has the tier Unknown.
func (c *Catalogue) Find(n uint64) Error {
	if e, ok := c.byXID[n]; ok {
		return e
	}
	return Error{XID: n, Name: "Unknown error", Tier: Unknown, Meaning: c.Tiers[Unknown]}
}

// Critical are the critical XIDs in order, as text: their counters are initialised to 0,
// so that the first one is an increase.
func (c *Catalogue) Critical() []string { return c.critical }
