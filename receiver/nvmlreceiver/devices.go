// SPDX-License-Identifier: Apache-2.0

package nvmlreceiver

import (
	"strconv"
	"strings"

	"github.com/otelcol-gpu/otelcol-gpu/internal/configkeys"
	"github.com/otelcol-gpu/otelcol-gpu/internal/gpuname"
)

// DeviceFilter chooses GPUs by UUID (GPU-…), by NVML index (0, gpu0) or by PCI
// address (0000:01:00.0). Indices change when GPUs come and go.
type DeviceFilter struct {
	// Include lists the GPUs to scrape. Empty: all.
	Include []string `mapstructure:"include"`
	// Exclude lists GPUs not to scrape.
	Exclude []string `mapstructure:"exclude"`
}

// normalizeDevice returns the one form of a GPU's name that the matcher compares, or what
// is wrong with the name and the remedy.
func normalizeDevice(name string) (normal, fault, remedy string) {
	name = strings.TrimSpace(name)
	if n, ok := gpuname.Index(name); ok {
		return strconv.Itoa(n), "", ""
	}
	switch {
	case gpuname.IsUUID(name):
		return strings.ToLower(name), "", ""
	case gpuname.IsPCI(name):
		return gpuname.PCI(name), "", ""
	case gpuname.IsMIG(name):
		return "", "is a MIG device, and MIG devices are scraped with their GPU", "use the GPU's UUID, index or PCI address"
	}
	return "", "is not a valid GPU", "use a UUID (GPU-…), an index (0 or gpu0) or a PCI address (0000:01:00.0)"
}

func (f *DeviceFilter) validate(p *configkeys.Problems) {
	included := map[string]bool{}
	check := func(key string, list []string) {
		for i, name := range list {
			path := key + "::" + strconv.Itoa(i)
			normal, fault, remedy := normalizeDevice(name)
			switch {
			case fault != "":
				p.Add(path, name, fault, remedy)
			case key == "devices::include":
				included[normal] = true
			case included[normal]:
				p.Add(path, name, "is listed in devices::include too", "remove it from one of the two lists")
			}
		}
	}
	check("devices::include", f.Include)
	check("devices::exclude", f.Exclude)
}

// deviceMatcher is a filter in the form that is compared.
type deviceMatcher struct{ include, exclude map[string]bool }

func newDeviceMatcher(f DeviceFilter) deviceMatcher {
	set := func(list []string) map[string]bool {
		m := make(map[string]bool, len(list))
		for _, name := range list {
			if normal, fault, _ := normalizeDevice(name); fault == "" { // Validate has refused the others
				m[normal] = true
			}
		}
		return m
	}
	return deviceMatcher{include: set(f.Include), exclude: set(f.Exclude)}
}

func (m deviceMatcher) matches(uuid string, index int, pci string) bool {
	uuid, pci = strings.ToLower(uuid), gpuname.PCI(pci)
	number := strconv.Itoa(index)
	in := func(set map[string]bool) bool { return set[uuid] || set[number] || set[pci] }
	return (len(m.include) == 0 || in(m.include)) && !in(m.exclude)
}
