// SPDX-License-Identifier: Apache-2.0

package gpuname

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestAddressesOfEverySourceBecomeTheSame(t *testing.T) {
	for given, want := range map[string]string{
		"00000000:3B:00.0": "0000:3b:00.0",  // NVML
		"0000:3b:00.0":     "0000:3b:00.0",  // sysfs
		"0000:3b:00":       "0000:3b:00.0",  // the kernel's log
		"00010000:01:00.0": "10000:01:00.0", // a domain beyond four digits
		"0000:3b:00.1":     "0000:3b:00.1",
		"":                 "",
		"../../etc":        "../../etc",
	} {
		assert.Equal(t, want, PCI(given))
	}
}

func TestNamesAreToldApart(t *testing.T) {
	for name, want := range map[string]string{
		"GPU-1f-2e": "uuid", "gpu-1f": "uuid", "gpu12": "index", "7": "index", "MIG-GPU-1f/2/3": "mig", "MIG-1f": "mig",
		"0000:01:00.0": "pci", "00000000:AF:00": "pci", "auto": "", "": "", "GPU-x": "", "12345": "", "MIG-": "",
	} {
		got := ""
		_, isIndex := Index(name)
		for kind, is := range map[string]bool{"uuid": IsUUID(name), "mig": IsMIG(name), "index": isIndex, "pci": IsPCI(name)} {
			if is {
				assert.Empty(t, got, name)
				got = kind
			}
		}
		assert.Equal(t, want, got, name)
	}
}

func FuzzPCI(f *testing.F) {
	f.Add("00000000:01:00.0")
	f.Add("../../etc/passwd")
	f.Fuzz(func(t *testing.T, address string) {
		once := PCI(address)
		assert.Equal(t, once, PCI(once))
	})
}
