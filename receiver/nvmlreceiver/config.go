// SPDX-License-Identifier: Apache-2.0

package nvmlreceiver

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/scraper/scraperhelper"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

const (
	defaultCollectionInterval = 15 * time.Second
	defaultGPUTimeout         = 2 * time.Second
	defaultSamplingInterval   = 100 * time.Millisecond
	// shortestSamplingInterval keeps the sampler from costing more than it tells.
	shortestSamplingInterval = 10 * time.Millisecond
	defaultProcesses         = 64
	mostProcesses            = 4096
	defaultPodResources      = "/var/lib/kubelet/pod-resources/kubelet.sock"
)

// Config is the configuration of one nvml receiver. All nvml receivers of a
// collector share one NVML session and one worker per GPU.
type Config struct {
	scraperhelper.ControllerConfig `mapstructure:",squash"`
	metadata.MetricsBuilderConfig  `mapstructure:",squash"`

	// Only names the metrics that are emitted, for a second receiver that takes a few
	// of them often. What stands under metrics goes before. Default: those that are
	// enabled.
	Only []string `mapstructure:"only"`

	// CardTimeout is how long a scrape waits for one GPU. A GPU that has
	// not answered by then is reported as unresponsive, and its series end until
	// it answers. Default: 2s, or the scrape interval if that is shorter.
	CardTimeout time.Duration `mapstructure:"card_timeout"`

	// SamplingInterval is how often cheap readings are taken between scrapes,
	// for peaks (hw.gpu.memory.usage.max) and busy time (hw.gpu.active.time).
	// 0 switches it off. Default: 100ms.
	SamplingInterval time.Duration `mapstructure:"sampling_interval"`

	// LibraryPath is NVML's shared library: a file name for the loader to find,
	// or an absolute path. Default: libnvidia-ml.so.1. A process can hold one
	// library only, so all nvml receivers must name the same.
	LibraryPath string `mapstructure:"library_path"`

	// Devices chooses the GPUs. Default: all.
	Devices DeviceFilter `mapstructure:"devices"`

	// Processes sets how processes on the GPUs and their owners are found.
	Processes ProcessesConfig `mapstructure:"processes"`

	// PerCardResource puts each GPU on a resource of its own that carries the
	// descriptive attributes too. Use it for OTLP backends and for the
	// DCGM-named output, not for remote write.
	PerCardResource bool `mapstructure:"per_card_resource"`

	// ForgetLostAfter ends the last series of a lost GPU (hw.gpu.up = 0,
	// hw.status failed, hw.gpu.info) after this time. 0 keeps them until the
	// GPU is back or the collector restarts.
	ForgetLostAfter time.Duration `mapstructure:"forget_lost_after"`

	// ExitOnDriverUpgrade stops the collector with a fatal error when the driver
	// was upgraded underneath: a process cannot change its NVML library, so a
	// supervisor has to start a new one. Default: report and go on.
	ExitOnDriverUpgrade bool `mapstructure:"exit_on_driver_upgrade"`
}

// ProcessesConfig says where a process's container and pod are looked up.
type ProcessesConfig struct {
	// Limit bounds the processes of one GPU; those with the most memory are kept
	// and the rest is counted in otelcol_receiver_nvml_processes_dropped. Default: 64.
	Limit int `mapstructure:"limit"`

	// ProcPath is the host's /proc. Default: /proc; in a container without the
	// host's PID namespace, the host's /proc mounted read-only, such as /host/proc.
	ProcPath string `mapstructure:"proc_path"`

	// LogPath is the folder in which the kubelet keeps containers/ and pods/. Their
	// names tell whose a container is; no log is read. Empty: not looked at.
	// Default: /var/log.
	LogPath string `mapstructure:"log_path"`

	// PodResources is the kubelet's PodResources socket, asked for
	// hw.gpu.allocated. Where there is none, nothing happens. Empty: not asked.
	// Default: /var/lib/kubelet/pod-resources/kubelet.sock.
	PodResources string `mapstructure:"pod_resources"`

	// PodResourcesInterval is how often the kubelet is asked. Default: 10s.
	PodResourcesInterval time.Duration `mapstructure:"pod_resources_interval"`
}

func (p *ProcessesConfig) validate() error {
	var errs []error
	if p.Limit < 1 || p.Limit > mostProcesses {
		errs = append(errs, fmt.Errorf("processes::limit: %d is not between 1 and %d: give a number of processes per GPU, or switch hw.gpu.process.memory.usage and hw.gpu.process.utilization off", p.Limit, mostProcesses))
	}
	if p.PodResourcesInterval < time.Second {
		errs = append(errs, fmt.Errorf("processes::pod_resources_interval: %v is shorter than 1s: give 1s or more, or set processes::pod_resources to \"\" to ask nobody", p.PodResourcesInterval))
	}
	for key, path := range map[string]string{"proc_path": p.ProcPath, "log_path": p.LogPath, "pod_resources": p.PodResources} {
		if path != "" && !filepath.IsAbs(path) {
			errs = append(errs, fmt.Errorf("processes::%s: %q is a relative path: give an absolute one", key, path))
		}
	}
	if p.ProcPath == "" {
		errs = append(errs, errors.New("processes::proc_path: it is empty: give the path of the host's procfs, such as /proc"))
	}
	return errors.Join(errs...)
}

// ownersWanted reports whether any metric tells of processes or pods.
func (c *Config) ownersWanted() bool {
	return c.Metrics.HwGpuProcessMemoryUsage.Enabled || c.Metrics.HwGpuProcessUtilization.Enabled || c.Metrics.HwGpuAllocated.Enabled
}

func createDefaultConfig() component.Config {
	cfg := &Config{
		ControllerConfig:     scraperhelper.NewDefaultControllerConfig(),
		MetricsBuilderConfig: metadata.DefaultMetricsBuilderConfig(),
	}
	cfg.CollectionInterval = defaultCollectionInterval
	cfg.SamplingInterval = defaultSamplingInterval
	cfg.Processes = ProcessesConfig{
		Limit: defaultProcesses, ProcPath: "/proc", LogPath: "/var/log",
		PodResources: defaultPodResources, PodResourcesInterval: 10 * time.Second,
	}
	return cfg
}

// Validate reports every mistake with its key, its value and the remedy.
func (c *Config) Validate() error {
	var errs []error
	if c.CardTimeout < 0 {
		errs = append(errs, fmt.Errorf("card_timeout: %v is negative: give a positive duration such as 2s, or leave it out", c.CardTimeout))
	}
	if c.CollectionInterval > 0 && c.CardTimeout > c.CollectionInterval {
		errs = append(errs, fmt.Errorf("card_timeout: %v is longer than collection_interval (%v), so that one late GPU would delay the next scrape: lower card_timeout or raise collection_interval", c.CardTimeout, c.CollectionInterval))
	}
	if c.Timeout > 0 && c.Timeout < c.gpuTimeout() {
		errs = append(errs, fmt.Errorf("timeout: %v is shorter than card_timeout (%v): raise timeout, or leave it out", c.Timeout, c.gpuTimeout()))
	}
	if c.SamplingInterval != 0 && c.SamplingInterval < shortestSamplingInterval {
		errs = append(errs, fmt.Errorf("sampling_interval: %v is shorter than %v: give %v or more, or 0 to switch the sampler off", c.SamplingInterval, shortestSamplingInterval, shortestSamplingInterval))
	}
	if c.ForgetLostAfter < 0 {
		errs = append(errs, fmt.Errorf("forget_lost_after: %v is negative: give a positive duration such as 24h, or 0 to keep lost GPUs", c.ForgetLostAfter))
	}
	if strings.ContainsRune(c.LibraryPath, filepath.Separator) && !filepath.IsAbs(c.LibraryPath) {
		errs = append(errs, fmt.Errorf("library_path: %q is a relative path: give an absolute one, or a bare file name such as libnvidia-ml.so.1", c.LibraryPath))
	}
	errs = append(errs, c.Devices.validate(), c.Processes.validate())
	return errors.Join(errs...)
}

// cardTimeout is the effective deadline of one GPU.
func (c *Config) gpuTimeout() time.Duration {
	if c.CardTimeout > 0 {
		return c.CardTimeout
	}
	return min(defaultGPUTimeout, c.CollectionInterval)
}

// samples reports whether the sampler runs: it tells nothing that scrapes as
// frequent as it do not.
func (c *Config) samples() bool {
	return c.SamplingInterval > 0 && c.SamplingInterval < c.CollectionInterval
}
