// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"strconv"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/confignet"
	"go.opentelemetry.io/collector/confmap"

	"github.com/otelcol-gpu/otelcol-gpu/internal/configkeys"
	"github.com/otelcol-gpu/otelcol-gpu/internal/isolation"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/sizing"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/spans"
)

// The modes of the receiver.
const (
	// modeProxy relays all requests and sees each node.
	modeProxy = "proxy"
	// modePoll reads the server's queue and history, for servers that cannot be placed
	// behind a proxy.
	modePoll = "poll"
)

// Config is the configuration of one comfyui receiver: one ComfyUI server.
type Config struct {
	// Mode is proxy or poll. Default: proxy.
	Mode string `mapstructure:"mode"`

	// Proxy is the server that clients connect to. Default: 127.0.0.1:8189, uploads of
	// any size, no timeouts for transfers. compression_algorithms has no effect: bodies
	// are relayed as they are.
	Proxy confighttp.ServerConfig `mapstructure:"proxy"`

	// Upstream is the ComfyUI server. Default: http://127.0.0.1:8188. Clients' requests
	// are relayed as they are: headers, auth and timeout apply to the receiver's own
	// requests only.
	Upstream confighttp.ClientConfig `mapstructure:"upstream"`

	// CollectionInterval is how often metrics are emitted. Default: 15s.
	CollectionInterval time.Duration `mapstructure:"collection_interval"`

	// PollInterval is how often the queue and the history are read in poll mode, and in
	// proxy mode for prompts about which no messages arrive. Default: 2s.
	PollInterval time.Duration `mapstructure:"poll_interval"`

	// DrainTimeout is how long shutdown waits for open requests. Default: 2s.
	DrainTimeout time.Duration `mapstructure:"drain_timeout"`

	// Device is the GPU that the server uses: auto finds the process that listens on the
	// upstream's port and the GPU that it uses; else a GPU's UUID, or its NVML index (0 or
	// gpu0). If it is empty, hw.id is omitted. Default: auto.
	Device string `mapstructure:"device"`

	// LibraryPath is NVML's library, as in the nvml receiver, whose setting must be the
	// same.
	LibraryPath string `mapstructure:"library_path"`

	// ExecutionEvents emits a log record (comfyui.execution.started) when a prompt starts
	// to run, with which the gpucorrelation connector divides a GPU among the prompts that
	// run, and links GPU records to them, before their traces arrive. The connector does
	// not forward these records. Default: false.
	ExecutionEvents bool `mapstructure:"execution_events"`

	// OwnSockets opens a socket to the server for a prompt whose client id has none through
	// the proxy, so that its nodes are traced: for no client (false), for those that poll the
	// history of their prompts and have never opened a socket (pollers), or for every client
	// (true). A socket of the proxy's silences a client's own that is connected past the
	// proxy. Default: false.
	OwnSockets string `mapstructure:"own_sockets"`

	Memory MemoryConfig `mapstructure:"memory"`

	Admission AdmissionConfig `mapstructure:"admission"`

	// Storage is a storage extension for the prompts until their traces are in the exporters'
	// queue: after a kill, each has exactly one trace. In poll mode, it is for the ids of
	// prompts whose traces were exported.
	Storage *component.ID `mapstructure:"storage"`

	// Sizing adds rules to the built-in ones.
	Sizing []sizing.Rule `mapstructure:"sizing"`

	// TaskClasses replaces the built-in classes (people, buildings).
	TaskClasses []sizing.TaskClass `mapstructure:"task_classes"`

	// InputChecks compares the images that prompts name, by their task classes. Default: none.
	InputChecks map[string]InputCheckConfig `mapstructure:"input_checks"`

	Capture spans.Capture `mapstructure:"capture"`
	Limits  LimitsConfig  `mapstructure:"limits"`

	// given lists the keys that the configuration sets.
	given []string
	// place is where the receiver runs apart from the process; nil is within.
	place *isolation.Place
	// atLeast is the least that shutdown and the judgement of an image may take, for tests on a machine
	// that is busy with others.
	atLeast time.Duration
}

// Isolate has the receiver run in a place of its own.
func (c *Config) Isolate(place *isolation.Place) { c.place = place }

// MemoryConfig is about the server's memory.
type MemoryConfig struct {
	// Interval is how often the server is asked for its memory (/system_stats) while a prompt
	// runs, as long as it answers fast. 0 turns that off. Default: 500ms.
	Interval time.Duration `mapstructure:"interval"`
	// Retries reads the server's log (/internal/logs/raw) once after a prompt has ended, for
	// work that ran out of memory and was tried again. It needs an Interval. Default: true.
	Retries bool `mapstructure:"retries"`
}

// LimitsConfig bounds what the receiver holds. What exceeds a limit is counted.
type LimitsConfig struct {
	// Prompts is how many prompts are followed at a time, and OpenBytes about how much memory
	// what is known of them may take. Default: 10000, 64 MiB.
	Prompts   int `mapstructure:"prompts"`
	OpenBytes int `mapstructure:"open_bytes"`
	// Nodes is how many runs of nodes are followed of a prompt. Default: 16384.
	Nodes int `mapstructure:"nodes"`
	// Workflows, Models, NodeClasses and TaskClasses bound the values of attributes of
	// metrics; further values become "other". Default: 50, 50, 200, 20.
	Workflows   int `mapstructure:"workflows"`
	Models      int `mapstructure:"models"`
	NodeClasses int `mapstructure:"node_classes"`
	TaskClasses int `mapstructure:"task_classes"`
	// Queue is how many traces, and how many log records, may wait for the next consumer,
	// also while it refuses them. Default: 1000.
	Queue int `mapstructure:"queue"`
	// PromptBytes bounds the prompts that are read, BodyBytes all of them that are being read
	// at a time, and FrameBytes the text messages; what is longer is relayed unread. Default:
	// 32 MiB, 64 MiB, 4 MiB.
	PromptBytes int `mapstructure:"prompt_bytes"`
	BodyBytes   int `mapstructure:"body_bytes"`
	FrameBytes  int `mapstructure:"frame_bytes"`
	// LabelBytes bounds ids, names and labels in telemetry, MessageBytes the messages of
	// exceptions and the bodies of log records, StacktraceBytes stack traces, of which the end
	// is kept. Default: 256, 4 KiB, 16 KiB.
	LabelBytes      int `mapstructure:"label_bytes"`
	MessageBytes    int `mapstructure:"message_bytes"`
	StacktraceBytes int `mapstructure:"stacktrace_bytes"`
	// Sockets bounds the clients' WebSockets that are read; further ones are relayed
	// unread. Default: 10000.
	Sockets int `mapstructure:"sockets"`
	// KeptSockets bounds the sockets that are open for prompts whose client has left or
	// never had one. Default: 256.
	KeptSockets int `mapstructure:"kept_sockets"`
	// Images is how many images are remembered for input_checks. ImageBytes bounds an upload that is
	// copied for them, and UploadBytes all of them at a time; what is beyond is relayed and not judged.
	// Default: 4096, 32 MiB, 64 MiB.
	Images      int `mapstructure:"images"`
	ImageBytes  int `mapstructure:"image_bytes"`
	UploadBytes int `mapstructure:"upload_bytes"`
}

// bounds are the bounds of texts in telemetry.
func (l *LimitsConfig) bounds() protocol.Bounds {
	return protocol.Bounds{Label: l.LabelBytes, Message: l.MessageBytes, Stacktrace: l.StacktraceBytes, Nodes: l.Nodes}
}

// parsing are the bounds of texts that are read. Those that may hold private data are
// longer: they are cut when that has been removed, so that no part of it is left at a cut.
func (l *LimitsConfig) parsing() protocol.Bounds {
	b := l.bounds()
	b.Message, b.Stacktrace = 2*b.Message, 2*b.Stacktrace
	return b
}

const (
	defaultProxyEndpoint = "127.0.0.1:8189"
	defaultUpstream      = "http://127.0.0.1:8188"
	// maxBody exceeds any upload, since the server has a limit of its own.
	maxBody = 1 << 40
)

func createDefaultConfig() component.Config {
	proxy := confighttp.NewDefaultServerConfig()
	proxy.NetAddr = confignet.AddrConfig{Endpoint: defaultProxyEndpoint, Transport: confignet.TransportTypeTCP}
	proxy.MaxRequestBodySize = maxBody
	proxy.ReadTimeout, proxy.WriteTimeout = 0, 0 // uploads and streams may last
	upstream := confighttp.NewDefaultClientConfig()
	upstream.Endpoint = defaultUpstream
	// No timeout here, since requestTimeout bounds the receiver's own requests.
	upstream.Timeout = 0
	return &Config{
		Mode: modeProxy, Proxy: proxy, Upstream: upstream,
		CollectionInterval: 15 * time.Second, PollInterval: 2 * time.Second, DrainTimeout: 2 * time.Second,
		Device: deviceAuto, OwnSockets: ownNever, Memory: MemoryConfig{Interval: 500 * time.Millisecond, Retries: true}, Admission: defaultAdmission(),
		Limits: LimitsConfig{
			Prompts: 10000, OpenBytes: 64 << 20, Nodes: 16384, Workflows: 50, Models: 50, NodeClasses: 200, TaskClasses: 20, Queue: 1000,
			PromptBytes: 32 << 20, BodyBytes: 64 << 20, FrameBytes: 4 << 20, LabelBytes: 256, MessageBytes: 4 << 10, StacktraceBytes: 16 << 10,
			Sockets: 10000, KeptSockets: 256, Images: 4096, ImageBytes: 32 << 20, UploadBytes: 64 << 20,
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
	if own, isBool := conf.Get("own_sockets").(bool); isBool { // beside pollers, a text
		if err := conf.Merge(confmap.NewFromStringMap(map[string]any{"own_sockets": strconv.FormatBool(own)})); err != nil {
			return err
		}
	}
	c.given = conf.AllKeys()
	return configkeys.Unmarshal(conf, c)
}
