// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"go.opentelemetry.io/collector/component"

	"github.com/otelcol-gpu/otelcol-gpu/internal/configkeys"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/rate"
)

// The modes of admission.
const (
	modeObserve = "observe"
	modeEnforce = "enforce"
)

// AdmissionConfig is about whether the server should run a prompt.
type AdmissionConfig struct {
	// Advisor is the gpuadvisor connector of this collector that decides, for example gpuadvisor.
	// Default: none, and every prompt is passed on.
	Advisor *component.ID `mapstructure:"advisor"`
	// Remote is an advisor in another collector, instead of advisor. Default: none.
	Remote RemoteConfig `mapstructure:"remote"`
	// Mode is observe, where decisions are noted and change nothing, or enforce. Default: observe.
	Mode string `mapstructure:"mode"`
	// Timeout is how long a decision may take; then the prompt is passed on. Default: 20ms.
	Timeout time.Duration `mapstructure:"timeout"`
	// TrustRequestClass lets extra_data.task_class and extra_data.deadline_s of a request count in
	// enforce, and the former in poll mode. Default: false.
	TrustRequestClass bool `mapstructure:"trust_request_class"`
	// RewriteSize are the task classes whose prompts, where they can never fit, have their size lowered
	// to the largest that does, in enforce. Default: none, and they are refused.
	RewriteSize []string `mapstructure:"rewrite_size"`
	// Hold is about prompts that are about to fit.
	Hold HoldConfig `mapstructure:"hold"`
	// RateLimits bound the prompts that a client sends. Default: none.
	RateLimits []RateLimitConfig `mapstructure:"rate_limits"`
	// TrustedProxies are the networks, for example 10.0.0.0/8, of proxies whose X-Forwarded-For
	// says where a request came from. Default: none.
	TrustedProxies []string `mapstructure:"trusted_proxies"`
}

// HoldConfig bounds the prompts that are held.
type HoldConfig struct {
	// Timeout is for how long a prompt is held before it is refused. Default: 20s.
	Timeout time.Duration `mapstructure:"timeout"`
	// Prompts is how many are held at a time, Bytes the size of their bodies. Default: 64, 16 MiB.
	Prompts int `mapstructure:"prompts"`
	Bytes   int `mapstructure:"bytes"`
}

// RateLimitConfig is a limit of how many prompts a client sends.
type RateLimitConfig struct {
	// TaskClass is the class of the prompts that count. Default: all.
	TaskClass string `mapstructure:"task_class"`
	// Per is what tells clients apart: address, or header. Default: address.
	Per string `mapstructure:"per"`
	// Header is the header's name. A gateway in front must set it: clients may send any.
	Header string `mapstructure:"header"`
	// RequestsPerMinute is how many prompts a client may send, Burst how many at a time. Default of
	// burst: 1.
	RequestsPerMinute float64 `mapstructure:"requests_per_minute"`
	Burst             int     `mapstructure:"burst"`
}

// What tells clients apart.
const (
	perAddress = "address"
	perHeader  = "header"
)

func defaultAdmission() AdmissionConfig {
	return AdmissionConfig{Remote: defaultRemote(), Mode: modeObserve, Timeout: 20 * time.Millisecond, Hold: HoldConfig{Timeout: 20 * time.Second, Prompts: 64, Bytes: 16 << 20}}
}

const (
	// maxHold is less than the time after which ComfyUI's page gives up without response headers.
	maxHold = 50 * time.Second
	// maxRateLimits bounds the limits, each of which costs each prompt a look-up.
	maxRateLimits = 32
	maxPerMinute  = 1e6
)

// validate adds the mistakes.
func (c *AdmissionConfig) validate(p *configkeys.Problems, mode string, bodyBytes int) {
	p.AddIf(len(c.RewriteSize) > 0 && c.Mode == modeObserve, "admission::rewrite_size", c.RewriteSize, "has no effect in observe", "remove it, or set admission::mode: enforce")
	p.AddIf(c.Mode != modeObserve && c.Mode != modeEnforce, "admission::mode", c.Mode, "is not a valid mode", "use observe or enforce")
	c.validateAdvisor(p, mode)
	p.AddIf(len(c.RateLimits) > 0 && mode == modePoll, "admission::rate_limits", len(c.RateLimits), "have no effect in poll mode", "remove them, or set mode: proxy")
	p.AddIf(c.Timeout < time.Millisecond || c.Timeout > time.Second, "admission::timeout", c.Timeout, "is not between 1ms and 1s", "use a duration such as 20ms")
	p.AddIf(c.Hold.Timeout < 0 || c.Hold.Timeout > maxHold, "admission::hold::timeout", c.Hold.Timeout, "is not between 0s and 50s", "use a duration such as 20s: ComfyUI's page gives up after a minute")
	p.AddIf(c.Hold.Prompts < 0, "admission::hold::prompts", c.Hold.Prompts, "is negative", "use a number such as 64, or 0 to hold none")
	p.AddIf(c.Hold.Bytes < 0, "admission::hold::bytes", c.Hold.Bytes, "is negative", "use a number such as 16777216")
	p.AddIf(c.Mode == modeEnforce && c.Hold.Bytes > bodyBytes/2, "admission::hold::bytes", c.Hold.Bytes, "is more than half of limits::body_bytes: held prompts would leave too little of it to read others",
		"lower it, or raise limits::body_bytes")
	p.AddIf(len(c.RateLimits) > maxRateLimits, "admission::rate_limits", len(c.RateLimits), "is more than 32", "remove some")
	for i := range c.RateLimits {
		c.RateLimits[i].validate(p, fmt.Sprintf("admission::rate_limits::%d", i))
	}
	for i, network := range c.TrustedProxies {
		_, err := netip.ParsePrefix(network)
		p.AddIf(err != nil, fmt.Sprintf("admission::trusted_proxies::%d", i), network, "is not a valid network", "use one such as 10.0.0.0/8 or fd00::/8; a single address is 192.0.2.7/32")
	}
}

func (c *RateLimitConfig) validate(p *configkeys.Problems, key string) {
	p.AddIf(c.Per != "" && c.Per != perAddress && c.Per != perHeader, key+"::per", c.Per, "is not a valid choice", "use address or header")
	p.AddIf(c.Per == perHeader && !isHeaderName(c.Header), key+"::header", c.Header, "is not a valid name of a header", "use one that your gateway sets, for example X-Tenant")
	p.AddIf(c.Per != perHeader && c.Header != "", key+"::header", c.Header, "has no effect without per: header", "remove it, or set per: header")
	p.AddIf(strings.EqualFold(c.Header, "X-Forwarded-For"), key+"::header", c.Header, "names addresses", "use per: address with trusted_proxies")
	p.AddIf(!(c.RequestsPerMinute > 0 && c.RequestsPerMinute <= maxPerMinute), key+"::requests_per_minute", c.RequestsPerMinute, "is not between 0 and 1000000", "use a number such as 30")
	p.AddIf(c.Burst < 0 || c.Burst > maxPerMinute, key+"::burst", c.Burst, "is not between 0 and 1000000", "use a number such as 5")
}

// isHeaderName reports whether a text is the name of a header (RFC 9110, section 5.6.2).
func isHeaderName(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
	})
}

// limits are the rate limits of the configuration; nil without any.
func (c *AdmissionConfig) limits(now func() time.Time) *rate.Limits {
	if len(c.RateLimits) == 0 {
		return nil
	}
	limits := make([]rate.Limit, len(c.RateLimits))
	for i, l := range c.RateLimits {
		limits[i] = rate.Limit{TaskClass: l.TaskClass, PerMinute: l.RequestsPerMinute, Burst: max(l.Burst, 1)}
		if l.Per == perHeader {
			limits[i].Header = http.CanonicalHeaderKey(l.Header)
		}
	}
	trusted := make([]netip.Prefix, 0, len(c.TrustedProxies))
	for _, network := range c.TrustedProxies {
		if p, err := netip.ParsePrefix(network); err == nil {
			trusted = append(trusted, p.Masked())
		}
	}
	return rate.New(limits, trusted, now)
}
