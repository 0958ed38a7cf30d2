// SPDX-License-Identifier: Apache-2.0

package alerts

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
	"github.com/otelcol-gpu/otelcol-gpu/internal/logonce"
)

const (
	// maxBody bounds an answer that is read; maxAlerts the alerts that are shown of it.
	maxBody   = 4 << 20
	maxAlerts = 200
	// maxText bounds each text of an alert, in bytes.
	maxText = 512
)

// Poller asks for the alerts that fire, again and again.
type Poller struct {
	cfg       Config
	telemetry component.TelemetrySettings
	url       string
	host      string
	client    *http.Client
	once      logonce.Tracker
	cancel    context.CancelFunc
	wg        sync.WaitGroup

	mu sync.Mutex
	// firing and failure are the last answer: guarded by mu. The list is replaced, never changed.
	firing  []view.Alert
	failure texts.Message
}

// New makes a poller. With a configuration that is not enabled it does nothing.
func New(cfg Config, telemetry component.TelemetrySettings) *Poller {
	return &Poller{cfg: cfg, telemetry: telemetry, failure: texts.Message{Key: "alerts.waiting"}}
}

// Start begins to ask. It does not wait for the first answer.
func (p *Poller) Start(ctx context.Context, host component.Host) (err error) {
	if !p.cfg.IsEnabled() {
		return nil
	}
	if p.url, err = p.cfg.address(); err != nil {
		return err
	}
	if p.client, err = p.cfg.Client.ToClient(ctx, host.GetExtensions(), p.telemetry); err != nil {
		return err
	}
	if !p.cfg.AllHosts {
		if p.host, err = os.Hostname(); err != nil {
			p.telemetry.Logger.Warn("Cannot read the host name; alerts of all hosts are shown", zap.Error(err))
		}
	}
	var running context.Context
	running, p.cancel = context.WithCancel(context.Background())
	p.wg.Go(func() { p.run(running) })
	return nil
}

// Shutdown ends a question that is under way.
func (p *Poller) Shutdown() {
	if p.cancel == nil {
		return
	}
	p.cancel()
	p.wg.Wait()
	p.client.CloseIdleConnections()
}

// address is the URL of the alerts.
func (c *Config) address() (string, error) {
	u, err := url.Parse(c.Client.Endpoint)
	if err != nil {
		return "", fmt.Errorf("parse the endpoint of alerts: %w", err)
	}
	if c.Source == Prometheus {
		return u.JoinPath("api", "v1", "alerts").String(), nil
	}
	u = u.JoinPath("api", "v2", "alerts")
	u.RawQuery = url.Values{"active": {"true"}, "silenced": {"false"}, "inhibited": {"false"}}.Encode()
	return u.String(), nil
}

func (p *Poller) run(ctx context.Context) {
	ticker := time.NewTicker(p.cfg.Interval)
	defer ticker.Stop()
	for {
		firing, err := p.ask(ctx)
		if ctx.Err() != nil {
			return
		}
		p.store(firing, err)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// store replaces the last answer. What fired by an answer before a failure is not shown: it
// may have ended.
func (p *Poller) store(firing []view.Alert, err error) {
	if p.once.ChangedError("alerts", err) {
		if err != nil {
			p.telemetry.Logger.Warn("Cannot read the alerts that fire; retrying", zap.String("endpoint", p.shown()), zap.Error(err))
		} else {
			p.telemetry.Logger.Info("Alerts that fire can be read again", zap.String("endpoint", p.shown()))
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.firing, p.failure = firing, failureOf(err)
}

// errStatus is an answer with another status than 200, errAnswer one that cannot be read.
type errStatus int

func (e errStatus) Error() string { return fmt.Sprintf("the server responded with status %d", int(e)) }

var errAnswer = errors.New("the answer is not a list of alerts")

// failureOf is an error in words; empty if there is none.
func failureOf(err error) texts.Message {
	var status errStatus
	switch {
	case err == nil:
		return texts.Message{}
	case errors.As(err, &status):
		return texts.Message{Key: "alerts.status", Args: texts.Args{"status": int(status)}}
	case errors.Is(err, errAnswer):
		return texts.Message{Key: "alerts.answer"}
	}
	return texts.Message{Key: "alerts.unreachable"}
}

// ask asks once.
func (p *Poller) ask(ctx context.Context) ([]view.Alert, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url, nil)
	if err != nil {
		return nil, err
	}
	response, err := p.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		_, _ = io.CopyN(io.Discard, response.Body, maxBody) // so that the connection is used again
		return nil, errStatus(response.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBody+1))
	if err != nil {
		return nil, err
	}
	if len(body) > maxBody {
		return nil, fmt.Errorf("%w: it is longer than %d bytes", errAnswer, maxBody)
	}
	return parse(body, p.cfg.Source, p.host)
}

// shown is the endpoint without credentials.
func (p *Poller) shown() string {
	u, err := url.Parse(p.cfg.Client.Endpoint)
	if err != nil {
		return ""
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}

// View is the last answer in a language; nil where nobody is asked. It may be called from any
// goroutine.
func (p *Poller) View(l texts.Language) *view.Alerts {
	if !p.cfg.IsEnabled() {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	v := &view.Alerts{Source: p.shown(), Firing: slices.Clone(p.firing)}
	if p.failure.Key != "" {
		v.Error = p.failure.In(l)
	}
	if v.Firing == nil {
		v.Firing = []view.Alert{}
	}
	return v
}

// Bounds implements [bounds.Registered].
func (p *Poller) Bounds() []bounds.Bound {
	p.mu.Lock()
	firing := len(p.firing)
	p.mu.Unlock()
	return append(p.once.Bounds(), bounds.Bound{Name: "alerts.Poller.firing", Max: maxAlerts, Size: firing})
}
