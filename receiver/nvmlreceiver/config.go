// SPDX-License-Identifier: Apache-2.0

package nvmlreceiver

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/scraper/scraperhelper"

	"github.com/otelcol-gpu/otelcol-gpu/internal/configkeys"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

const (
	defaultGPUTimeout = time.Second
	// minGPUTimeout: shorter calls are no sign of a hang, since calls wait for one another.
	minGPUTimeout = time.Second
	// minInterval bounds the cost of a receiver.
	minInterval = 10 * time.Millisecond
	// minWorkingInterval bounds the cost of a receiver that follows work.
	minWorkingInterval = 10 * time.Millisecond
	// minSamplingInterval bounds the sampler's cost.
	minSamplingInterval = 10 * time.Millisecond
	maxProcesses        = 4096
)

// Config is the configuration of one nvml receiver. All nvml receivers of a
// collector share one NVML session and one worker per GPU.
type Config struct {
	scraperhelper.ControllerConfig `mapstructure:",squash"`
	metadata.MetricsBuilderConfig  `mapstructure:",squash"`

	// Only lists the metrics to emit, for a second receiver that scrapes a few of them
	// often. The key metrics takes precedence. Default: those that are enabled.
	Only []string `mapstructure:"only"`

	// CardTimeout is how long one call of the driver may take. A GPU whose call takes longer
	// is reported as unresponsive, and its series are marked stale until it responds. A
	// scrape waits for no GPU longer than collection_interval. Default: 1s.
	CardTimeout time.Duration `mapstructure:"card_timeout"`

	// WorkingInterval makes the receiver follow work, for the gpucorrelation connector: it
	// scrapes at this interval while a comfyui receiver of the collector has open prompts (or,
	// without one, while a GPU's instant power is above rest) and half a second after, and at
	// collection_interval otherwise. Samples have the times at which they were read, and
	// readings that cost the driver much are made seldom. Default: 0, which disables it.
	WorkingInterval time.Duration `mapstructure:"working_interval"`

	// SamplingInterval is how often the sampler reads the GPUs between scrapes, for peaks
	// (hw.gpu.memory.usage.max) and active time (hw.gpu.active.time). 0 disables it.
	// Default: 100ms.
	SamplingInterval time.Duration `mapstructure:"sampling_interval"`

	// LibraryPath is NVML's shared library: a file name for the loader to find, or an
	// absolute path. All nvml receivers of a process must use the same, since a process
	// can load one NVML library only. Default: libnvidia-ml.so.1.
	LibraryPath string `mapstructure:"library_path"`

	// Devices selects the GPUs. Default: all.
	Devices DeviceFilter `mapstructure:"devices"`

	// Processes configures how processes on the GPUs and their owners are found.
	Processes ProcessesConfig `mapstructure:"processes"`

	// PerCardResource emits each GPU on a resource of its own that carries the descriptive
	// attributes too. Use it for OTLP backends and for DCGM's metric names, not for remote
	// write. Default: false.
	PerCardResource bool `mapstructure:"per_card_resource"`

	// ForgetLostAfter is how long the last series of a lost GPU (hw.gpu.up = 0, hw.status
	// failed, hw.gpu.info) are emitted. 0 keeps them until the GPU is back or the
	// collector restarts. Default: 0.
	ForgetLostAfter time.Duration `mapstructure:"forget_lost_after"`

	// Sleep is keep or allow. allow lets GPUs sleep that can, in laptops and workstations: NVML
	// is closed while no GPU has had a process for a minute, nothing is asked while they are
	// suspended, and their series are marked stale. All nvml receivers of a collector must
	// allow it. Default: keep, since an open NVML session keeps them awake.
	Sleep string `mapstructure:"sleep"`

	// ExitOnDriverUpgrade stops the collector with a fatal error after an upgrade of the
	// driver: a process cannot reload its NVML library, so a supervisor has to start
	// another one. Default: false, which logs it and continues.
	ExitOnDriverUpgrade bool `mapstructure:"exit_on_driver_upgrade"`
}

// ProcessesConfig configures where a process's container and pod are found.
type ProcessesConfig struct {
	// Limit bounds the processes of one GPU. Those with the most memory are emitted, and
	// the rest is counted in otelcol_receiver_nvml_processes_dropped. Default: 64.
	Limit int `mapstructure:"limit"`

	// ProcPath is the host's /proc. In a container without the host's PID namespace, mount
	// the host's /proc read-only, for example as /host/proc. Default: /proc.
	ProcPath string `mapstructure:"proc_path"`

	// LogPath is the folder in which the kubelet has containers/ and pods/. Containers are
	// matched with pods by the names of these files; no log is read. Empty: disabled.
	// Default: /var/log.
	LogPath string `mapstructure:"log_path"`

	// PodResources is the kubelet's PodResources socket, for hw.gpu.allocated. If it does
	// not exist, it is ignored. Empty: disabled.
	// Default: /var/lib/kubelet/pod-resources/kubelet.sock.
	PodResources string `mapstructure:"pod_resources"`

	// PodResourcesInterval is how often the kubelet is asked. Default: 10s.
	PodResourcesInterval time.Duration `mapstructure:"pod_resources_interval"`
}

func (c *ProcessesConfig) validate(p *configkeys.Problems) {
	p.AddIf(c.Limit < 1 || c.Limit > maxProcesses, "processes::limit", c.Limit, fmt.Sprintf("is not between 1 and %d", maxProcesses),
		"use a number of processes per GPU, or disable hw.gpu.process.memory.usage and hw.gpu.process.utilization")
	p.AddIf(c.ProcPath == "", "processes::proc_path", nil, "is empty",
		"use the path of the host's procfs, for example /proc")
	for _, path := range [...]struct{ key, value string }{
		{"proc_path", c.ProcPath}, {"log_path", c.LogPath}, {"pod_resources", c.PodResources},
	} {
		p.AddIf(path.value != "" && !filepath.IsAbs(path.value), "processes::"+path.key, path.value,
			"is a relative path", "use an absolute path")
	}
	p.AddIf(c.PodResourcesInterval < time.Second, "processes::pod_resources_interval", c.PodResourcesInterval, "is shorter than 1s",
		"use 1s or more, or set processes::pod_resources to \"\" to disable it")
}

// needsOwners reports whether any enabled metric has attributes of processes or pods.
func (c *Config) needsOwners() bool {
	return c.Metrics.HwGpuProcessMemoryUsage.Enabled || c.Metrics.HwGpuProcessUtilization.Enabled || c.Metrics.HwGpuAllocated.Enabled
}

func createDefaultConfig() component.Config {
	cfg := &Config{
		ControllerConfig:     scraperhelper.NewDefaultControllerConfig(),
		MetricsBuilderConfig: metadata.DefaultMetricsBuilderConfig(),
	}
	cfg.CollectionInterval = 15 * time.Second
	cfg.SamplingInterval = 100 * time.Millisecond
	cfg.Sleep = sleepKeep
	cfg.CardTimeout = defaultGPUTimeout
	cfg.Processes = ProcessesConfig{
		Limit: 64, ProcPath: "/proc", LogPath: "/var/log",
		PodResources: "/var/lib/kubelet/pod-resources/kubelet.sock", PodResourcesInterval: 10 * time.Second,
	}
	return cfg
}

// Validate lists every mistake with its key, its value and the remedy.
func (c *Config) Validate() error {
	var p configkeys.Problems
	p.AddIf(c.CardTimeout != 0 && c.CardTimeout < minGPUTimeout, "card_timeout", c.CardTimeout,
		fmt.Sprintf("is shorter than %v, and calls of the driver wait for one another", minGPUTimeout),
		fmt.Sprintf("use %v or more, or remove it; a scrape waits no longer than collection_interval anyway", minGPUTimeout))
	wait := min(c.CollectionInterval, c.gpuTimeout())
	p.AddIf(c.Timeout > 0 && c.Timeout < wait, "timeout", c.Timeout,
		fmt.Sprintf("is shorter than a scrape waits for the GPUs (%v)", wait), "raise timeout, or remove it")
	p.AddIf(c.WorkingInterval != 0 && (c.WorkingInterval < minWorkingInterval || c.WorkingInterval > c.CollectionInterval),
		"working_interval", c.WorkingInterval, fmt.Sprintf("is not between %v and collection_interval (%v)", minWorkingInterval, c.CollectionInterval),
		"use an interval such as 50ms beside a collection_interval of 200ms, or remove it")
	p.AddIf(c.SamplingInterval != 0 && c.SamplingInterval < minSamplingInterval, "sampling_interval", c.SamplingInterval,
		fmt.Sprintf("is shorter than %v", minSamplingInterval),
		fmt.Sprintf("use %v or more, or 0 to disable the sampler", minSamplingInterval))
	relative := strings.ContainsRune(c.LibraryPath, filepath.Separator) && !filepath.IsAbs(c.LibraryPath)
	p.AddIf(relative, "library_path", c.LibraryPath, "is a relative path",
		"use an absolute path, or a file name without a folder, for example libnvidia-ml.so.1")
	c.Devices.validate(&p)
	c.Processes.validate(&p)
	p.AddIf(c.ForgetLostAfter < 0, "forget_lost_after", c.ForgetLostAfter, "is negative",
		"use a positive duration, for example 24h, or 0 to keep lost GPUs")
	p.AddIf(c.Sleep != sleepKeep && c.Sleep != sleepAllow, "sleep", c.Sleep, "is not a valid value",
		"use keep, or allow to let the GPUs of laptops and workstations sleep")
	return p.Err()
}

// The values of the key sleep.
const (
	sleepKeep  = "keep"
	sleepAllow = "allow"
)

// gpuTimeout is how long one call may take.
func (c *Config) gpuTimeout() time.Duration {
	if c.CardTimeout > 0 {
		return c.CardTimeout
	}
	return defaultGPUTimeout
}

// followsWork reports whether the receiver reads the GPUs often while they have work.
func (c *Config) followsWork() bool { return c.WorkingInterval > 0 }

// samplerEnabled reports whether the sampler runs: beside scrapes that are as frequent it
// has no use.
func (c *Config) samplerEnabled() bool {
	return c.SamplingInterval > 0 && c.SamplingInterval < c.CollectionInterval
}
