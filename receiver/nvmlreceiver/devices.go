// SPDX-License-Identifier: Apache-2.0

package nvmlreceiver

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/otelcol-gpu/otelcol-gpu/internal/gpuname"
)

// DeviceFilter chooses GPUs by UUID (GPU-…), by NVML index (0, gpu0) or by PCI
// address (0000:01:00.0). Indices change when GPUs come and go.
type DeviceFilter struct {
	// Include names the GPUs to read. Empty: all.
	Include []string `mapstructure:"include"`
	// Exclude names GPUs not to read.
	Exclude []string `mapstructure:"exclude"`
}

// normalizeDevice brings a name of a GPU into the one form that matches compares.
func normalizeDevice(name string) (string, error) {
	name = strings.TrimSpace(name)
	if n, ok := gpuname.Index(name); ok {
		return strconv.Itoa(n), nil
	}
	switch {
	case gpuname.IsUUID(name):
		return strings.ToLower(name), nil
	case gpuname.IsPCI(name):
		return gpuname.PCI(name), nil
	case gpuname.IsMIG(name):
		return "", errors.New("MIG devices are read with their GPU: name the GPU")
	}
	return "", errors.New("it is neither a UUID (GPU-…), an index (0 or gpu0) nor a PCI address (0000:01:00.0)")
}

func (f *DeviceFilter) validate() error {
	var errs []error
	seen := map[string]string{}
	for key, list := range map[string][]string{"devices::include": f.Include, "devices::exclude": f.Exclude} {
		for _, name := range list {
			n, err := normalizeDevice(name)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %q: %w", key, name, err))
				continue
			}
			if other, ok := seen[n]; ok && other != key {
				errs = append(errs, fmt.Errorf("devices: %q stands in include and in exclude: remove it from one of them", name))
			}
			seen[n] = key
		}
	}
	return errors.Join(errs...)
}

// deviceMatcher is a filter made ready to compare.
type deviceMatcher struct{ include, exclude map[string]bool }

func newDeviceMatcher(f DeviceFilter) deviceMatcher {
	set := func(names []string) map[string]bool {
		m := make(map[string]bool, len(names))
		for _, name := range names {
			if n, err := normalizeDevice(name); err == nil { // Validate has refused the others
				m[n] = true
			}
		}
		return m
	}
	return deviceMatcher{include: set(f.Include), exclude: set(f.Exclude)}
}

func (m deviceMatcher) wants(uuid string, index int, pci string) bool {
	uuid, pci = strings.ToLower(uuid), gpuname.PCI(pci)
	number := strconv.Itoa(index)
	in := func(set map[string]bool) bool { return set[uuid] || set[number] || set[pci] }
	return (len(m.include) == 0 || in(m.include)) && !in(m.exclude)
}
