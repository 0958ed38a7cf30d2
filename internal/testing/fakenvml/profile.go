// SPDX-License-Identifier: Apache-2.0

package fakenvml

import (
	"embed"
	"fmt"
	"hash/fnv"
	"io/fs"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

//go:embed profiles
var profileFiles embed.FS

// Profile is what one model of GPU answers, from profiles/*.yaml. The values
// are figures that real GPUs reported; what a GPU answers with "not
// supported" is listed as such.
type Profile struct {
	// File is the profile's name: its file's name without the ending.
	File string `yaml:"-"`
	// Origin is where the figures come from.
	Origin string `yaml:"origin"`
	// Architecture is NVML's name of it, for the documentation.
	Architecture string `yaml:"architecture"`
	Driver       struct {
		Version string `yaml:"version"`
		NVML    string `yaml:"nvml"`
		CUDA    int64  `yaml:"cuda"`
	} `yaml:"driver"`
	SamplingPeriod time.Duration `yaml:"sampling_period"`
	PowerPeriod    time.Duration `yaml:"power_period"`
	// EnergyMJ is the energy counter at the start, in mJ.
	EnergyMJ int64             `yaml:"energy_mj"`
	Texts    map[string]string `yaml:"texts"`
	// Values are in NVML's units, memory_* and bar1_* in MiB.
	Values map[string]int64 `yaml:"values"`
	// Fields are field values by id, in NVML's units.
	Fields map[int]fieldValue `yaml:"fields"`
	Series map[string]int64   `yaml:"series"`
	// NVLinks is the number of links, all active.
	NVLinks int `yaml:"nvlinks"`
	// GPM are the profiling counters by nvmlGpmMetricId_t, in percent or MiB/s.
	GPM map[int]float64 `yaml:"gpm"`
	// Processes are those that were there before the load.
	Processes []profileProcess `yaml:"processes"`
	// Load overrides what changes under load.
	Load struct {
		Values map[string]int64   `yaml:"values"`
		Fields map[int]fieldValue `yaml:"fields"`
		Series map[string]int64   `yaml:"series"`
		GPM    map[int]float64    `yaml:"gpm"`
		// Processes are those that made the load.
		Processes []profileProcess `yaml:"processes"`
	} `yaml:"load"`
	Unsupported struct {
		Functions []string `yaml:"functions"`
		Values    []string `yaml:"values"`
	} `yaml:"unsupported"`
	MIG []struct {
		Name            string `yaml:"name"`
		GPUInstance     int64  `yaml:"gpu_instance"`
		ComputeInstance int64  `yaml:"compute_instance"`
		TotalMiB        int64  `yaml:"total_mib"`
		UsedMiB         int64  `yaml:"used_mib"`
		UsedLoadMiB     int64  `yaml:"used_load_mib"`
		GPMPermille     int64  `yaml:"gpm_permille"`
	} `yaml:"mig"`
}

type fieldValue struct {
	Value int64  `yaml:"value"`
	Type  string `yaml:"type"`
}

type profileProcess struct {
	PID             int    `yaml:"pid"`
	Graphics        bool   `yaml:"graphics"`
	MemoryMiB       int64  `yaml:"memory_mib"`
	GPUInstance     *int64 `yaml:"gpu_instance"`
	ComputeInstance *int64 `yaml:"compute_instance"`
	SM              int64  `yaml:"sm"`
	Mem             int64  `yaml:"mem"`
	Enc             int64  `yaml:"enc"`
	Dec             int64  `yaml:"dec"`
}

var fieldTypes = map[string]int64{"": TypeUnsignedInt, "uint": TypeUnsignedInt, "ulong": TypeUnsignedLong, "ulonglong": TypeUnsignedLL, "int": typeSignedInt}

const typeSignedInt = 5

const mib = 1 << 20

// Profiles lists the names of all profiles, sorted.
func Profiles() []string {
	files, err := fs.Glob(profileFiles, "profiles/*.yaml")
	if err != nil {
		panic(err)
	}
	for i, f := range files {
		files[i] = strings.TrimSuffix(strings.TrimPrefix(f, "profiles/"), ".yaml")
	}
	slices.Sort(files)
	return files
}

// LoadProfile reads a profile by its name.
func LoadProfile(name string) (*Profile, error) {
	raw, err := profileFiles.ReadFile("profiles/" + name + ".yaml")
	if err != nil {
		return nil, fmt.Errorf("GPU profile %q: it is none of %s", name, strings.Join(Profiles(), ", "))
	}
	p := &Profile{File: name}
	d := yaml.NewDecoder(strings.NewReader(string(raw)))
	d.KnownFields(true)
	if err := d.Decode(p); err != nil {
		return nil, fmt.Errorf("GPU profile %q: %w", name, err)
	}
	return p, nil
}

// apply writes the GPU's idle state.
func (p *Profile) apply(c *GPU) {
	l := c.state.layout
	c.SetSamplingPeriods(p.SamplingPeriod, p.PowerPeriod)
	for name, v := range p.Texts {
		c.SetText(name, v)
	}
	c.SetText("uuid", fmt.Sprintf("GPU-%08x-0000-4000-8000-%012x", p.hash(), c.index+1))
	c.SetText("pci_bus_id", fmt.Sprintf("00000000:%02X:00.0", c.index+1))
	if p.Texts["serial"] != "" {
		c.SetText("serial", fmt.Sprintf("%013d", 1000+c.index))
	}
	for i := range maxFields { // what no profile names, no GPU has
		c.SetField(i, 0, TypeUnsignedInt, NotSupported)
	}
	for name := range l.series {
		c.stepAt(name, 0, 0)
	}
	for id := range maxGPM {
		c.SetGPM(id, 0, NotSupported)
	}
	c.setGPM(p.GPM)
	c.setProcesses(p.Processes)
	links := make([]NVLink, p.NVLinks)
	for i := range links {
		links[i].Active = true
	}
	c.SetNVLinks(links...)
	c.SetEnergy(p.EnergyMJ)
	c.set(p.Values, p.Fields, p.Series)
	c.Set("minor_number", int64(c.index))
	for _, f := range p.Unsupported.Functions {
		c.SetReturn(f, NotSupported)
	}
	for _, v := range p.Unsupported.Values {
		c.SetValueReturn(v, NotSupported)
	}
	if len(p.MIG) > 0 {
		c.SetMIG(p.migDevices(c, false)...)
	}
}

func (p *Profile) migDevices(c *GPU, load bool) []MIGDevice {
	devices := make([]MIGDevice, 0, len(p.MIG))
	for i, m := range p.MIG {
		used := m.UsedMiB
		if load {
			used = m.UsedLoadMiB
		}
		devices = append(devices, MIGDevice{
			UUID: fmt.Sprintf("MIG-%08x-%04x-4000-8000-%012x", p.hash(), c.index+1, i+1),
			Name: m.Name, GPUInstance: m.GPUInstance, ComputeInstance: m.ComputeInstance,
			MemoryTotal: m.TotalMiB * mib, MemoryUsed: used * mib, GPMPermille: m.GPMPermille,
		})
	}
	return devices
}

// hash makes the profiles' UUIDs unique.
func (p *Profile) hash() uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(p.File))
	return h.Sum32()
}

// SetLoad puts the GPU under the profile's load: what real GPUs of the model
// reported while they worked.
func (c *GPU) SetLoad(p *Profile) {
	c.set(p.Load.Values, p.Load.Fields, p.Load.Series)
	c.setGPM(p.Load.GPM)
	c.setProcesses(p.Load.Processes)
	if len(p.MIG) > 0 {
		c.SetMIG(p.migDevices(c, true)...)
	}
}

func (c *GPU) set(values map[string]int64, fields map[int]fieldValue, series map[string]int64) {
	for name, v := range values {
		if strings.HasPrefix(name, "memory_") || strings.HasPrefix(name, "bar1_") {
			v *= mib
		}
		c.Set(name, v)
	}
	for id, f := range fields {
		kind, ok := fieldTypes[f.Type]
		if !ok {
			panic(fmt.Sprintf("field %d has the unknown type %q", id, f.Type))
		}
		c.SetField(id, f.Value, kind, Success)
	}
	for name, v := range series {
		c.Step(name, v)
	}
}

func (c *GPU) setGPM(values map[int]float64) {
	for id, v := range values {
		c.SetGPM(id, int64(v*1000), Success)
	}
}

func (c *GPU) setProcesses(list []profileProcess) {
	processes := make([]Process, len(list))
	for i, l := range list {
		processes[i] = Process{
			PID: l.PID, Memory: l.MemoryMiB * mib, MIG: l.GPUInstance != nil,
			SM: l.SM, Mem: l.Mem, Enc: l.Enc, Dec: l.Dec, Graphics: l.Graphics,
		}
		if l.MemoryMiB < 0 { // the driver does not know it
			processes[i].Memory = NotAvailable
		}
		if l.GPUInstance != nil {
			processes[i].GPUInstance, processes[i].ComputeInstance = *l.GPUInstance, *l.ComputeInstance
		}
	}
	c.SetProcesses(processes...)
}
