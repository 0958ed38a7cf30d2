// SPDX-License-Identifier: Apache-2.0

package gpuadvisorconnector

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/confignet"
	"go.opentelemetry.io/collector/confmap"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/alerts"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/causes"
	"github.com/otelcol-gpu/otelcol-gpu/internal/configkeys"
	"github.com/otelcol-gpu/otelcol-gpu/internal/recommend"
)

// Config is the configuration of one gpuadvisor connector.
type Config struct {
	// Page is the server of the page and its JSON. Default: endpoint 127.0.0.1:8890, without
	// TLS and authentication.
	Page confighttp.ServerConfig `mapstructure:"page"`

	// AllowedHosts are names of the host, besides loopback addresses and that of the endpoint,
	// by which browsers may address the page. Default: none.
	AllowedHosts []string `mapstructure:"allowed_hosts"`

	// Alerts is the Alertmanager, Prometheus or vmalert whose alerts the page shows. Default: none.
	Alerts alerts.Config `mapstructure:"alerts"`

	// Links lead from a prompt to its trace in other programs. Default: none.
	Links []LinkConfig `mapstructure:"links"`

	Conditions ConditionsConfig `mapstructure:"conditions"`

	// CollectionInterval is how often the connector emits its metrics. Default: 15s.
	CollectionInterval time.Duration `mapstructure:"collection_interval"`

	// History is how far back GPUs' samples are held. Default: 30m.
	History time.Duration `mapstructure:"history"`

	// Classes are what is wanted of task classes, by their names in the comfyui receiver. Others are
	// as default_class. Default: none.
	Classes      map[string]ClassConfig `mapstructure:"classes"`
	DefaultClass ClassConfig            `mapstructure:"default_class"`

	// Advice is about decisions on prompts, for receivers and callers that ask.
	Advice AdviceConfig `mapstructure:"advice"`

	// Storage is a storage extension that keeps what is learned about prompts across restarts. Default:
	// none.
	Storage *component.ID `mapstructure:"storage"`

	// Rush is where a rush of simulated users can be caused. Default: nowhere.
	Rush RushConfig `mapstructure:"rush"`

	Limits LimitsConfig `mapstructure:"limits"`
}

// ConditionsConfig says when conditions show.
type ConditionsConfig struct {
	// After is how long a condition holds before it shows, by the cause, such as gpu.idle.
	// Default: two hours for gpu.idle, 15 minutes for comfyui.loading, a minute at most for the others.
	After map[string]time.Duration `mapstructure:"after"`
}

// ClassConfig is what is wanted of a class of prompts.
type ClassConfig struct {
	// Deadline is for how long after its request an image is of use; 0 is for ever. Default: 1m.
	Deadline time.Duration `mapstructure:"deadline"`
	// Objective is in what time prompts should end: levels are measured by it. Default: 30s.
	Objective time.Duration `mapstructure:"objective"`
	// Batch is true for work that is never urgent: it runs while nothing else waits. Default: false.
	Batch bool `mapstructure:"batch"`
	// Core is true for work that holds batch back while it waits, and by whose objective levels are
	// measured. Default: false; where no class is core, each is that is not batch.
	Core bool `mapstructure:"core"`
}

// AdviceConfig is about decisions on prompts.
type AdviceConfig struct {
	// BatchWaiting is how many batch prompts may wait in a server's queue while core work waits there.
	// While core work waits at a neighbour on its GPU, none is admitted. Default: 2.
	BatchWaiting int `mapstructure:"batch_waiting"`
	// BusyFor is over what time a GPU's utilisation is averaged, which above 80 % makes one busy where
	// something waits. Default: 2m.
	BusyFor time.Duration `mapstructure:"busy_for"`
	// SafetyMargin is by how much the bounds of memory are raised. Default: 0.05.
	SafetyMargin float64 `mapstructure:"safety_margin"`
	// Standby are the addresses of servers elsewhere that callers are sent to who ask before they
	// upload. Default: none.
	Standby []string `mapstructure:"standby"`
	// Claims lets callers over HTTP claim, as the proxies of other collectors do. Set page::auth
	// with it. Default: false.
	Claims bool `mapstructure:"claims"`
	// Measured is what executions cost, by measurements elsewhere: it counts until executions of about
	// the same size were seen. Default: none.
	Measured []MeasuredConfig `mapstructure:"measured"`
}

// MeasuredConfig is what one execution costs.
type MeasuredConfig struct {
	// Workflow, Model and GPU are comfyui.workflow.id, comfyui.model and hw.model of those that it
	// counts for. Default: all.
	Workflow string `mapstructure:"workflow"`
	Model    string `mapstructure:"model"`
	GPU      string `mapstructure:"gpu"`
	// Side is the longer side in pixels, Batch the images, Steps the steps. Default of both: 1.
	Side  int `mapstructure:"side"`
	Batch int `mapstructure:"batch"`
	Steps int `mapstructure:"steps"`
	// Time is what it takes of a GPU that does nothing else, with its model loaded. Default: unknown.
	Time time.Duration `mapstructure:"time"`
	// MemoryMiB is what PyTorch's allocator reserves at most, without CUDA's context. Default: unknown.
	MemoryMiB int `mapstructure:"memory_mib"`
}

// LinkConfig is a link.
type LinkConfig struct {
	// Name is the link's text.
	Name string `mapstructure:"name"`
	// URL has the placeholders {trace_id} and {prompt_id}.
	URL string `mapstructure:"url"`
}

// RushConfig is for simulations.
type RushConfig struct {
	// Endpoint is a URL that receives an empty POST. The page offers it only if all GPUs are
	// simulated.
	Endpoint string `mapstructure:"endpoint"`
}

// LimitsConfig bounds what the connector holds.
type LimitsConfig struct {
	// Prompts is how many prompts that have ended are held, PromptBytes how much memory their
	// traces take. Default: 10000, 64 MiB.
	Prompts     int `mapstructure:"prompts"`
	PromptBytes int `mapstructure:"prompt_bytes"`
	// GPUs is how many GPUs, with MIG devices, Processes how many processes of one, Servers how
	// many ComfyUI servers. Default: 128, 64, 64.
	GPUs      int `mapstructure:"gpus"`
	Processes int `mapstructure:"processes"`
	Servers   int `mapstructure:"servers"`
	// Events is how many of the last events. Default: 200.
	Events int `mapstructure:"events"`
	// Requests is how many requests of the last week are held one by one, for recommended sizes. Of
	// more, whole parts of the time are left out. Default: 262144, 8 MiB.
	Requests int `mapstructure:"requests"`
	// Viewers is how many streams of the page are open at a time. Default: 100.
	Viewers int `mapstructure:"viewers"`
}

// maxCount bounds the limits that count.
const maxCount = 1_000_000

const (
	// minHistory is what the conditions need, maxHistory what is sensible without a store.
	minHistory = 15 * time.Minute
	maxHistory = 6 * time.Hour
)

// isHost reports whether a text is a host's name, or an address: one of IPv6 with or without its
// brackets.
func isHost(host string) bool {
	if inner, ok := strings.CutPrefix(host, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		return ok && strings.Contains(inner, ":") && net.ParseIP(inner) != nil
	}
	return net.ParseIP(host) != nil || host != "" && !strings.ContainsAny(host, "/: []")
}

// requestTimeout is the default of how long a request of the page may take to arrive, and its header. Without
// it, a client that sends a body one byte at a time would keep its connection for days, whether it is authenticated or not.
const requestTimeout = 10 * time.Second

func createDefaultConfig() component.Config {
	server := confighttp.NewDefaultServerConfig()
	server.NetAddr = confignet.AddrConfig{Endpoint: "127.0.0.1:8890", Transport: confignet.TransportTypeTCP}
	server.ReadHeaderTimeout, server.ReadTimeout = requestTimeout, requestTimeout
	return &Config{
		Page: server, CollectionInterval: 15 * time.Second, History: 30 * time.Minute, Alerts: alerts.DefaultConfig(),
		DefaultClass: ClassConfig{Deadline: time.Minute, Objective: 30 * time.Second}, Advice: AdviceConfig{BatchWaiting: 2, BusyFor: 2 * time.Minute, SafetyMargin: 0.05},
		Limits: LimitsConfig{Prompts: 10_000, PromptBytes: 64 << 20, GPUs: 128, Processes: 64, Servers: 64, Events: 200, Requests: recommend.DefaultRequests, Viewers: 100},
	}
}

// Unmarshal refuses what [configkeys.Unmarshal] refuses.
func (c *Config) Unmarshal(conf *confmap.Conf) error { return configkeys.Unmarshal(conf, c) }

// Validate reports every mistake with its key, its value and the remedy.
func (c *Config) Validate() error {
	var p configkeys.Problems
	p.AddIf(c.Page.NetAddr.Endpoint == "", "page::endpoint", c.Page.NetAddr.Endpoint, "is empty", "use host:port, for example 127.0.0.1:8890")
	p.AddIf(c.CollectionInterval < time.Second, "collection_interval", c.CollectionInterval, "is shorter than 1s", "use a duration such as 15s, or omit the key for the default")
	p.AddIf(c.History < minHistory || c.History > maxHistory, "history", c.History, fmt.Sprintf("is not between %v and %v", minHistory, maxHistory), "use a duration such as 30m, or omit the key for the default")
	for i, host := range c.AllowedHosts {
		p.AddIf(!isHost(host), fmt.Sprintf("allowed_hosts::%d", i), host, "is not a valid host name or address", "use a name without scheme and port, for example gpu-node-07.example.com, or an address, for example 192.0.2.7 or 2001:db8::7")
	}
	c.Alerts.Check(&p, "alerts")
	c.validateAdvice(&p)
	for i, link := range c.Links {
		key := fmt.Sprintf("links::%d", i)
		p.AddIf(link.Name == "", key+"::name", link.Name, "is empty", "use the name of the program, for example Jaeger")
		p.AddIf(!configkeys.IsHTTP(link.URL), key+"::url", link.URL, "is not a valid URL", "use for example http://127.0.0.1:16686/trace/{trace_id}")
	}
	for _, id := range slices.Sorted(maps.Keys(c.Conditions.After)) {
		key, after := "conditions::after::"+id, c.Conditions.After[id]
		if causes.Find(id) == nil {
			p.Add(key, nil, "is not the id of a cause", configkeys.Suggestion(id, causes.IDs()))
		}
		p.AddIf(after < 0, key, after, "is negative", "use a duration such as 30m, or 0s to show the condition at once")
	}
	p.AddIf(c.Rush.Endpoint != "" && !configkeys.IsHTTP(c.Rush.Endpoint), "rush::endpoint", c.Rush.Endpoint, "is not a valid URL", "use http://host:port/path, or omit the key")
	for _, l := range []struct {
		key   string
		value int
	}{
		{"prompts", c.Limits.Prompts}, {"prompt_bytes", c.Limits.PromptBytes}, {"gpus", c.Limits.GPUs}, {"processes", c.Limits.Processes},
		{"servers", c.Limits.Servers}, {"events", c.Limits.Events}, {"requests", c.Limits.Requests}, {"viewers", c.Limits.Viewers},
	} {
		p.AddIf(l.value > maxCount && l.key != "prompt_bytes", "limits::"+l.key, l.value, fmt.Sprintf("is more than %d", maxCount), "use a smaller number, or omit the key for the default")
		p.AddIf(l.value < 1, "limits::"+l.key, l.value, "is less than 1", "use a positive number, or omit the key for the default")
	}
	return p.Err()
}
