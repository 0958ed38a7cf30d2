// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/boundtext"
	"github.com/otelcol-gpu/otelcol-gpu/internal/configkeys"
	"github.com/otelcol-gpu/otelcol-gpu/internal/gpuname"
)

// minInterval bounds the load that the receiver's requests put on the server.
const minInterval = 100 * time.Millisecond

// The shortest and the longest interval of questions for the server's memory.
const (
	minMemoryInterval = 200 * time.Millisecond
	maxMemoryInterval = 10 * time.Second
)

// Validate reports every mistake with its key, its value and the remedy.
func (c *Config) Validate() error {
	var p configkeys.Problems
	p.AddIf(c.Mode != modeProxy && c.Mode != modePoll, "mode", c.Mode, "is not a valid mode", "use proxy or poll")
	p.AddIf(!configkeys.IsHTTP(c.Upstream.Endpoint),
		"upstream::endpoint", c.Upstream.Endpoint, "is not a valid URL", "use http://host:port, for example "+defaultUpstream)
	p.AddIf(
		c.CollectionInterval < minInterval,
		"collection_interval",
		c.CollectionInterval,
		"is shorter than 100ms",
		"use a duration of at least 100ms, for example 15s",
	)
	p.AddIf(
		c.PollInterval < minInterval,
		"poll_interval",
		c.PollInterval,
		"is shorter than 100ms",
		"use a duration of at least 100ms, for example 2s",
	)
	p.AddIf(!slices.Contains([]string{ownNever, ownPollers, ownAlways}, c.OwnSockets), "own_sockets", c.OwnSockets, "is not a valid choice", "use false, pollers or true")
	p.AddIf(c.DrainTimeout < 0, "drain_timeout", c.DrainTimeout, "is negative", "use a duration, for example 2s, or 0 to close open requests at once")
	p.AddIf(c.Memory.Interval != 0 && (c.Memory.Interval < minMemoryInterval || c.Memory.Interval > maxMemoryInterval), "memory::interval", c.Memory.Interval,
		"is not between 200ms and 10s", "use a duration such as 500ms, or 0 to turn it off")
	c.Admission.validate(&p, c.Mode, c.Limits.BodyBytes)
	c.validateAdmittedClasses(&p)
	c.validateInputs(&p)
	_, isIndex := gpuname.Index(c.Device)
	p.AddIf(c.Device != "" && c.Device != deviceAuto && !isIndex && !isUUID(c.Device),
		"device", c.Device, "is not a valid GPU", "use auto, a UUID (GPU-… or MIG-…), an index (0 or gpu0), or an empty text to omit hw.id")
	for i := range c.Sizing {
		c.Sizing[i].Validate(&p, "sizing::"+strconv.Itoa(i))
	}
	for i := range c.TaskClasses {
		c.TaskClasses[i].Validate(&p, "task_classes::"+strconv.Itoa(i))
	}
	for i, pattern := range c.Capture.Redact {
		_, err := regexp.Compile(pattern)
		p.AddIf(
			err != nil,
			"capture::redact::"+strconv.Itoa(i),
			pattern,
			"is not a valid regular expression",
			`use Go's syntax, for example secret-\d+`,
		)
	}
	for field, limit := range reflect.ValueOf(c.Limits).Fields() {
		p.AddIf(
			limit.Int() < 1,
			"limits::"+field.Tag.Get("mapstructure"),
			limit,
			"is less than 1",
			"use a positive number, or omit the key for the default",
		)
	}
	for _, text := range []struct {
		key   string
		value int
	}{{"label_bytes", c.Limits.LabelBytes}, {"message_bytes", c.Limits.MessageBytes}, {"stacktrace_bytes", c.Limits.StacktraceBytes}} {
		p.AddIf(text.value > 0 && text.value < boundtext.MinBytes, "limits::"+text.key, text.value,
			"is less than "+strconv.Itoa(boundtext.MinBytes), "use a larger number, or omit the key for the default")
	}
	return p.Err()
}

// proxyKeys have an effect in proxy mode only, except admission::trust_request_class.
var proxyKeys = []string{
	"proxy", "admission", "own_sockets", "drain_timeout", "execution_events", "capture::client_address",
	"limits::prompt_bytes", "limits::body_bytes", "limits::frame_bytes", "limits::sockets", "limits::kept_sockets",
	"limits::images", "limits::image_bytes", "limits::upload_bytes",
}

// ignoredKeys lists the keys that are set and have no effect in the configured mode.
func (c *Config) ignoredKeys() []string {
	if c.Mode != modePoll {
		return nil
	}
	return slices.DeleteFunc(slices.Sorted(slices.Values(c.given)), func(key string) bool {
		return key == "admission::trust_request_class" || !slices.ContainsFunc(proxyKeys, func(k string) bool { return key == k || strings.HasPrefix(key, k+"::") })
	})
}
