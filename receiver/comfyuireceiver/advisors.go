// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/configmiddleware"
	"go.opentelemetry.io/collector/extension/extensionmiddleware"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/internal/admission/overhttp"
	"github.com/otelcol-gpu/otelcol-gpu/internal/configkeys"
)

// RemoteConfig is an advisor in another collector.
type RemoteConfig struct {
	// Client is the page of its gpuadvisor connector, which must allow claims, for example
	// http://gpu-node-07:8890, with TLS, headers and authentication. Default: none.
	Client confighttp.ClientConfig `mapstructure:",squash"`
	// Server is the service.instance.id that the server has there. Default: as here.
	Server string `mapstructure:"server"`
}

// defaultRemote keeps a connection for each call of the advisor that is under way.
func defaultRemote() RemoteConfig {
	c := RemoteConfig{Client: confighttp.NewDefaultClientConfig()}
	c.Client.MaxIdleConnsPerHost = 64 //nolint:staticcheck // confighttp keeps the defaults of keepalive there
	return c
}

func (c *RemoteConfig) isSet() bool { return c.Client.Endpoint != "" }

// advises reports whether somebody decides about prompts.
func (c *AdmissionConfig) advises() bool { return c.Advisor != nil || c.Remote.isSet() }

// validateAdvisor adds the mistakes about who decides.
func (c *AdmissionConfig) validateAdvisor(p *configkeys.Problems, mode string) {
	p.AddIf(c.Mode == modeEnforce && !c.advises(), "admission::advisor", nil, "is missing, which enforce needs", "name the gpuadvisor connector, for example gpuadvisor, or set admission::remote::endpoint")
	p.AddIf(c.Advisor != nil && mode == modePoll, "admission::advisor", c.Advisor, "has no effect in poll mode", "remove it, or set mode: proxy")
	endpoint := c.Remote.Client.Endpoint
	p.AddIf(endpoint != "" && mode == modePoll, "admission::remote::endpoint", endpoint, "has no effect in poll mode", "remove it, or set mode: proxy")
	p.AddIf(endpoint != "" && c.Advisor != nil, "admission::remote::endpoint", endpoint, "cannot be combined with admission::advisor", "remove one of them")
	p.AddIf(endpoint != "" && !configkeys.IsHTTP(endpoint), "admission::remote::endpoint", endpoint, "is not a valid URL", "use http://host:port, for example http://gpu-node-07:8890")
}

// named finds the advisor of the configuration, which may be reconfigured.
type named struct {
	advisors *admission.Advisors
	id       component.ID
}

// Advisor implements [gate.Finder].
func (n named) Advisor() admission.Advisor { return n.advisors.Find(n.id) }

// remote is an advisor in another collector.
type remote struct{ *overhttp.Client }

// Advisor implements [gate.Finder].
func (r remote) Advisor() admission.Advisor { return r.Client }

// makeRemote makes the client of an advisor in another collector, if there is one.
func (r *comfyuiReceiver) makeRemote(ctx context.Context, host component.Host) error {
	c := &r.cfg.Admission.Remote
	if !c.isSet() {
		return nil
	}
	// Decisions have metrics of their own; those of confighttp would double their costs.
	telemetry := r.settings.TelemetrySettings
	telemetry.MeterProvider, telemetry.TracerProvider = nil, nil
	connections, settings := &remoteConnections{}, c.Client
	settings.Middlewares = append(slices.Clone(settings.Middlewares), configmiddleware.Config{ID: connectionsID}) // the last has the transport
	extensions := map[component.ID]component.Component{connectionsID: connections}
	maps.Copy(extensions, host.GetExtensions())
	client, err := settings.ToClient(ctx, extensions, telemetry)
	if err != nil {
		return fmt.Errorf("admission::remote: %w", err)
	}
	connections.RoundTripper, client.Transport = client.Transport, connections
	r.remote = overhttp.NewClient(client, c.Client.Endpoint, c.Server, r.now)
	return nil
}

// remoteConnections closes those of a client, whose transport confighttp hides beneath others: of headers
// and authentication.
type remoteConnections struct {
	http.RoundTripper // of the client
	component.StartFunc
	component.ShutdownFunc
	transport http.RoundTripper
}

// connectionsID is none of the collector's extensions.
var connectionsID = component.MustNewIDWithName("comfyui", "connections")

var _ extensionmiddleware.HTTPClient = (*remoteConnections)(nil)

// GetHTTPRoundTripper implements [extensionmiddleware.HTTPClient].
func (c *remoteConnections) GetHTTPRoundTripper(context.Context) (extensionmiddleware.WrapHTTPRoundTripperFunc, error) {
	return func(_ context.Context, transport http.RoundTripper) (http.RoundTripper, error) {
		c.transport = transport
		return transport, nil
	}, nil
}

// CloseIdleConnections is called by that of [http.Client].
func (c *remoteConnections) CloseIdleConnections() {
	(&http.Client{Transport: c.transport}).CloseIdleConnections()
}
