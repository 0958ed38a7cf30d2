// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"fmt"
	"hash/fnv"
	"io"
	"regexp"
	"strconv"
	"strings"
)

// Stats is the answer of GET /system_stats.
type Stats struct {
	// Version is ComfyUI's, Torch PyTorch's; empty if the server does not report them.
	Version, Torch string
	// Devices are the devices that the server uses, at most MaxDevices.
	Devices []Device

	// Arguments is a hash of the server's arguments, but for where it listens; 0 if it does not
	// report them.
	Arguments uint64

	// fixed is true if an argument of the server keeps weights where they are.
	fixed bool
	// pages is true if comfy-aimdo is installed, which moves weights page by page.
	pages bool
}

// Device is one device of /system_stats, with its memory in bytes.
type Device struct {
	Type, Name string
	Index      *int // nil for a processor
	// Total and Free are of the device. Free is the driver's free memory and what PyTorch's
	// allocator could give back to it.
	Total, Free float64
	// TorchTotal is what PyTorch's allocator has reserved, TorchFree the part of it that no
	// tensor uses.
	TorchTotal, TorchFree float64
}

// IsGPU reports whether the device is a GPU: for a processor, ComfyUI reports the host's memory
// as if it were PyTorch's.
func (d *Device) IsGPU() bool { return d.Type != "cpu" && d.Type != "" }

// Active is the memory that tensors use, in bytes.
func (d *Device) Active() float64 { return max(d.TorchTotal-d.TorchFree, 0) }

// MaxDevices bounds the devices that a server can report.
const MaxDevices = 64

// ParseSystemStats reads the answer of GET /system_stats. Arguments are searched for those
// that matter, and not kept: they may hold paths.
func (b Bounds) ParseSystemStats(body io.Reader) (s Stats, err error) {
	d := newDocument(&lenientReader{from: body})
	err = d.object(func(name string) error {
		switch name {
		case "system":
			return s.readSystem(d)
		case "devices":
			return d.array(func(int) error {
				device, err := readDevice(d)
				b.label(&device.Type)
				b.label(&device.Name)
				if len(s.Devices) < MaxDevices {
					s.Devices = append(s.Devices, device)
				}
				return err
			})
		}
		return d.SkipValue()
	})
	if err != nil {
		return Stats{}, fmt.Errorf("read /system_stats: %w", err)
	}
	b.label(&s.Version)
	b.label(&s.Torch)
	return s, nil
}

func (s *Stats) readSystem(d document) error {
	return d.object(func(name string) error {
		switch name {
		case "comfyui_version":
			return d.text(&s.Version)
		case "pytorch_version":
			return d.text(&s.Torch)
		case "argv":
			hash, where := fnv.New64a(), false
			defer func() { s.Arguments = hash.Sum64() }()
			return d.array(func(i int) error {
				var argument string
				err := d.text(&argument)
				if listens := argument == "--port" || argument == "--listen"; i > 0 && !listens && !where {
					_, _ = hash.Write([]byte(argument + "\x00"))
				} else {
					where = listens && !where
				}
				switch argument {
				case "--disable-dynamic-vram", "--highvram", "--gpu-only", "--novram", "--cpu":
					s.fixed = true
				}
				return err
			})
		case "comfy_package_versions":
			return d.array(func(int) error {
				name, installed, err := readPackage(d)
				s.pages = s.pages || name == "comfy-aimdo" && installed
				return err
			})
		}
		return d.SkipValue()
	})
}

func readPackage(d document) (name string, installed bool, err error) {
	err = d.object(func(key string) error {
		switch key {
		case "name":
			return d.text(&name)
		case "installed":
			var version string
			err := d.text(&version)
			installed = version != ""
			return err
		}
		return d.SkipValue()
	})
	return name, installed, err
}

// Versions from which weights may be elastic: those of ComfyUI and of PyTorch.
var (
	dynamicVersion = [2]int{0, 16}
	dynamicTorch   = [2]int{2, 8}
)

// vGPU matches the names of NVIDIA's virtual GPUs, for example NVIDIA A40-8Q.
var vGPU = regexp.MustCompile(`^GRID |-\d+[ABCQ]\b`)

// Dynamic reports whether Dynamic VRAM (comfy-aimdo) is probably on: the server fills the
// GPU with weights on purpose and evicts them when memory is wanted. The API does not say
// so for certain.
func (s *Stats) Dynamic() bool {
	if s.fixed || !s.pages || !atLeast(s.Version, dynamicVersion) || !atLeast(s.Torch, dynamicTorch) {
		return false
	}
	for i := range s.Devices {
		d := &s.Devices[i]
		if d.Type == "cuda" && strings.Contains(d.Name, "NVIDIA") && !vGPU.MatchString(d.Name) {
			return true
		}
	}
	return false
}

// atLeast compares the first two numbers of a version.
func atLeast(version string, least [2]int) bool {
	first, rest, _ := strings.Cut(version, ".")
	second, _, _ := strings.Cut(rest, ".")
	major, err := strconv.Atoi(first)
	if err != nil {
		return false
	}
	end := strings.IndexFunc(second, func(r rune) bool { return r < '0' || r > '9' })
	if end >= 0 {
		second = second[:end]
	}
	minor, _ := strconv.Atoi(second)
	return major > least[0] || major == least[0] && minor >= least[1]
}

func readDevice(d document) (v Device, err error) {
	err = d.object(func(name string) error {
		switch name {
		case "type":
			return d.text(&v.Type)
		case "name":
			return d.text(&v.Name)
		case "index":
			if d.PeekKind() != '0' {
				return d.SkipValue()
			}
			var n float64
			err := d.number(&n)
			index := int(n)
			v.Index = &index
			return err
		case "vram_total":
			return d.number(&v.Total)
		case "vram_free":
			return d.number(&v.Free)
		case "torch_vram_total":
			return d.number(&v.TorchTotal)
		case "torch_vram_free":
			return d.number(&v.TorchFree)
		}
		return d.SkipValue()
	})
	return v, err
}
