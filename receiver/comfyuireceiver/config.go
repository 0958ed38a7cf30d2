// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/confignet"
	"go.opentelemetry.io/collector/confmap"

	"github.com/otelcol-gpu/otelcol-gpu/internal/configkeys"
	"github.com/otelcol-gpu/otelcol-gpu/internal/gpuname"
)

// The modes of the receiver.
const (
	// modeProxy stands in front of the server and sees everything.
	modeProxy = "proxy"
	// modePoll reads the server's queue and history, for servers that cannot be put
	// behind a proxy.
	modePoll = "poll"
)

// Config is the configuration of one comfyui receiver: one ComfyUI server.
type Config struct {
	// Mode is proxy or poll. Default: proxy.
	Mode string `mapstructure:"mode"`

	// Proxy is what clients connect to. Default: 127.0.0.1:8189, uploads of any
	// size, no time limits on transfers.
	Proxy confighttp.ServerConfig `mapstructure:"proxy"`

	// Upstream is the ComfyUI server. Default: http://127.0.0.1:8188. Clients'
	// requests go there as they are: headers and auth are for the receiver's own
	// questions only.
	Upstream confighttp.ClientConfig `mapstructure:"upstream"`

	// CollectionInterval is how often metrics are emitted. Default: 15s.
	CollectionInterval time.Duration `mapstructure:"collection_interval"`

	// PollInterval is how often the queue and the history are read in poll mode, and
	// in proxy mode for prompts that the sockets tell nothing of. Default: 2s.
	PollInterval time.Duration `mapstructure:"poll_interval"`

	// DrainTimeout is how long the end waits for requests that are under way.
	// Default: 5s.
	DrainTimeout time.Duration `mapstructure:"drain_timeout"`

	// Device is the GPU that the server uses: auto finds the process that listens
	// on the upstream's port and the GPU it holds; else a GPU's UUID, or its NVML
	// index (0 or gpu0). Empty: not told. Default: auto.
	Device string `mapstructure:"device"`

	// LibraryPath is NVML's library, for device: auto; see the nvml receiver, which
	// must name the same.
	LibraryPath string `mapstructure:"library_path"`

	// ExecutionEvents adds a log record (comfyui.execution.started) when a prompt
	// begins to run: the gpucorrelation connector shares a GPU's time among the
	// prompts that run, and names them on the GPU's records, before their traces have
	// ended. It keeps these records to itself. Default: false.
	ExecutionEvents bool `mapstructure:"execution_events"`

	// OwnSockets opens a socket to the server for a prompt whose client id has none
	// through the proxy, so that its nodes are seen. Switch it off where clients send
	// prompts through the proxy and keep their sockets to the server past it: theirs
	// would hear nothing. Default: true.
	OwnSockets bool `mapstructure:"own_sockets"`

	// Storage is a storage extension that keeps the open prompts, so that they end
	// after a kill of the collector; and in poll mode what was already told.
	Storage *component.ID `mapstructure:"storage"`

	// Sizing adds rules to the built-in ones.
	Sizing []SizingRule `mapstructure:"sizing"`

	// TaskClasses replaces the built-in classes (people, buildings).
	TaskClasses []TaskClass `mapstructure:"task_classes"`

	Capture CaptureConfig `mapstructure:"capture"`
	Limits  LimitsConfig  `mapstructure:"limits"`
}

// LimitsConfig bounds what the receiver holds. What is beyond is counted.
type LimitsConfig struct {
	// Prompts are followed at a time. Default: 10000.
	Prompts int `mapstructure:"prompts"`
	// Workflows, Models, NodeClasses and TaskClasses are told apart in metrics; the
	// rest is "other". Default: 50, 50, 200, 20.
	Workflows   int `mapstructure:"workflows"`
	Models      int `mapstructure:"models"`
	NodeClasses int `mapstructure:"node_classes"`
	TaskClasses int `mapstructure:"task_classes"`
	// Queue is how many prompts may wait for the next consumer. Default: 1000.
	Queue int `mapstructure:"queue"`
	// PromptBytes is the longest prompt that is read, FrameBytes the longest text
	// frame; longer ones are passed on unread. Default: 32 MiB, 4 MiB.
	PromptBytes int `mapstructure:"prompt_bytes"`
	FrameBytes  int `mapstructure:"frame_bytes"`
	// KeptSockets are open for prompts without their client: it has left, or never
	// had one. Default: 256.
	KeptSockets int `mapstructure:"kept_sockets"`
}

const (
	defaultProxyEndpoint = "127.0.0.1:8189"
	defaultUpstream      = "http://127.0.0.1:8188"
	// largestBody is beyond any upload: the server has its own limit.
	largestBody = 1 << 40
)

func createDefaultConfig() component.Config {
	proxy := confighttp.NewDefaultServerConfig()
	proxy.NetAddr = confignet.AddrConfig{Endpoint: defaultProxyEndpoint, Transport: confignet.TransportTypeTCP}
	proxy.MaxRequestBodySize = largestBody
	proxy.ReadTimeout, proxy.WriteTimeout = 0, 0 // uploads and streams take their time
	upstream := confighttp.NewDefaultClientConfig()
	upstream.Endpoint = defaultUpstream
	upstream.Timeout = 0 // of own questions only; see askTimeout
	return &Config{
		Mode: modeProxy, Proxy: proxy, Upstream: upstream,
		CollectionInterval: 15 * time.Second, PollInterval: 2 * time.Second, DrainTimeout: 5 * time.Second,
		Device: deviceAuto, OwnSockets: true,
		Limits: LimitsConfig{
			Prompts: 10000, Workflows: 50, Models: 50, NodeClasses: 200, TaskClasses: 20, Queue: 1000,
			PromptBytes: 32 << 20, FrameBytes: 4 << 20, KeptSockets: 256,
		},
	}
}

// Unmarshal refuses what [configkeys.Unmarshal] refuses.
func (c *Config) Unmarshal(conf *confmap.Conf) error {
	if n, isNumber := conf.Get("device").(int); isNumber { // YAML reads 0 as a number
		if err := conf.Merge(confmap.NewFromStringMap(map[string]any{"device": strconv.Itoa(n)})); err != nil {
			return err
		}
	}
	return configkeys.Unmarshal(conf, c)
}

// Validate reports every mistake with its key, its value and the remedy.
func (c *Config) Validate() error {
	var errs []error
	if c.Mode != modeProxy && c.Mode != modePoll {
		errs = append(errs, fmt.Errorf("mode: %q is neither %s nor %s", c.Mode, modeProxy, modePoll))
	}
	if u, err := url.Parse(c.Upstream.Endpoint); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		errs = append(errs, fmt.Errorf("upstream::endpoint: %q is no address of a ComfyUI server: give one such as %s", c.Upstream.Endpoint, defaultUpstream))
	}
	for key, d := range map[string]time.Duration{"collection_interval": c.CollectionInterval, "poll_interval": c.PollInterval} {
		if d < 100*time.Millisecond {
			errs = append(errs, fmt.Errorf("%s: %v is shorter than 100ms: give a duration such as 15s", key, d))
		}
	}
	if c.DrainTimeout < 0 {
		errs = append(errs, fmt.Errorf("drain_timeout: %v is negative: give a duration such as 5s, or 0 to wait for nothing", c.DrainTimeout))
	}
	if _, isIndex := gpuname.Index(c.Device); c.Device != "" && c.Device != deviceAuto && !isIndex && !isUUID(c.Device) {
		errs = append(errs, fmt.Errorf("device: %q is neither auto nor a GPU's UUID (GPU-… or MIG-…) or index (0 or gpu0); leave it empty to tell none", c.Device))
	}
	for i := range c.Sizing {
		errs = append(errs, c.Sizing[i].validate(fmt.Sprintf("sizing::%d", i)))
	}
	for i := range c.TaskClasses {
		errs = append(errs, c.TaskClasses[i].validate(fmt.Sprintf("task_classes::%d", i)))
	}
	c.Capture.patterns = nil
	for i, text := range c.Capture.Redact {
		p, err := regexp.Compile(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("capture::redact::%d: %q is no regular expression: %w", i, text, err))
			continue
		}
		c.Capture.patterns = append(c.Capture.patterns, p)
	}
	for key, n := range map[string]int{
		"prompts": c.Limits.Prompts, "workflows": c.Limits.Workflows, "models": c.Limits.Models, "node_classes": c.Limits.NodeClasses,
		"task_classes": c.Limits.TaskClasses, "queue": c.Limits.Queue, "prompt_bytes": c.Limits.PromptBytes, "frame_bytes": c.Limits.FrameBytes,
		"kept_sockets": c.Limits.KeptSockets,
	} {
		if n < 1 {
			errs = append(errs, fmt.Errorf("limits::%s: %d is less than 1: give a positive number, or leave it out for the default", key, n))
		}
	}
	return errors.Join(errs...)
}
