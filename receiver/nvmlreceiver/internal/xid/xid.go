// SPDX-License-Identifier: Apache-2.0

// Package xid is the catalogue of XIDs: the numbers under which NVIDIA's driver
// reports errors of a GPU.
package xid

import (
	_ "embed"
	"fmt"
	"slices"
	"strconv"

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

var advice = map[Tier]string{
	Reboot:        "Drain the node and reboot it; if the error recurs, check the GPU's seating, power and cooling.",
	Reset:         "Stop the programs that use the GPU and reset it (nvidia-smi --gpu-reset); reboot the node if that fails.",
	Workflow:      "Follow NVIDIA's workflow for this XID; it decides between restart, reset and replacement.",
	Application:   "Restart the program that used the GPU; if the error recurs with other programs, suspect the GPU.",
	Informational: "No action by itself; check the events before it.",
	Unknown:       "Look it up in NVIDIA's XID catalogue.",
}

// Error is one entry of the catalogue.
type Error struct {
	XID  uint64 `yaml:"xid"`
	Name string `yaml:"name"`
	Tier Tier   `yaml:"tier"`
}

// Advice is what to do.
func (e Error) Advice() string { return advice[e.Tier] }

// Critical reports whether the GPU is unusable until it is reset or the node rebooted.
func (e Error) Critical() bool { return e.Tier == Reset || e.Tier == Reboot }

// Catalogue holds the entries by XID.
type Catalogue struct {
	byXID    map[uint64]Error
	critical []string
}

// Load reads the catalogue.
func Load() (*Catalogue, error) {
	var entries []Error
	if err := yaml.Unmarshal(catalogue, &entries); err != nil {
		return nil, fmt.Errorf("XID catalogue: %w", err)
	}
	c := &Catalogue{byXID: make(map[uint64]Error, len(entries))}
	for _, e := range entries {
		if _, known := advice[e.Tier]; !known {
			return nil, fmt.Errorf("XID catalogue: %d has the unknown tier %q", e.XID, e.Tier)
		}
		if _, twice := c.byXID[e.XID]; twice {
			return nil, fmt.Errorf("XID catalogue: %d is listed twice", e.XID)
		}
		c.byXID[e.XID] = e
	}
	numbers := make([]uint64, 0, len(c.byXID))
	for n := range c.byXID {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	for _, n := range numbers {
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
	return Error{XID: n, Name: "Unknown error", Tier: Unknown}
}

// Critical are the critical XIDs in order, as text: their counters are initialised to 0,
// so that the first one is an increase.
func (c *Catalogue) Critical() []string { return c.critical }
