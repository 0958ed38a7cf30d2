// SPDX-License-Identifier: Apache-2.0

// Package gpuname reads the names by which people, NVML, sysfs and the kernel's log
// call a GPU: its UUID, its index, its PCI address.
package gpuname

import (
	"regexp"
	"strconv"
	"strings"
)

var (
	uuid  = regexp.MustCompile(`^(?i)GPU-[0-9a-f-]+$`)
	mig   = regexp.MustCompile(`^(?i)MIG-[0-9a-z/-]+$`)
	index = regexp.MustCompile(`^(gpu)?([0-9]{1,4})$`)
	pci   = regexp.MustCompile(`^(?i)[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}(\.[0-9a-f])?$`)
)

// IsUUID reports whether a name has the form of a GPU's UUID (GPU-…).
func IsUUID(name string) bool { return uuid.MatchString(name) }

// IsMIG reports whether a name has the form of a MIG device's UUID (MIG-…).
func IsMIG(name string) bool { return mig.MatchString(name) }

// Index is the NVML index that a name tells: 0 and gpu0 are the same.
func Index(name string) (n int, ok bool) {
	m := index.FindStringSubmatch(name)
	if m == nil {
		return 0, false
	}
	n, err := strconv.Atoi(m[2])
	return n, err == nil
}

// IsPCI reports whether a name has the form of a PCI address.
func IsPCI(name string) bool { return pci.MatchString(name) }

// PCI writes a PCI address as sysfs does, 0000:3b:00.0: in lower case, with a domain
// of four digits where it fits, and with the function. NVML's has a domain of eight
// digits and capitals, the kernel's log no function. Anything else is returned unchanged.
func PCI(address string) string {
	if !IsPCI(address) {
		return address
	}
	domain, rest, _ := strings.Cut(strings.ToLower(address), ":")
	for len(domain) > 4 && domain[0] == '0' {
		domain = domain[1:]
	}
	if !strings.Contains(rest, ".") {
		rest += ".0"
	}
	return domain + ":" + rest
}
