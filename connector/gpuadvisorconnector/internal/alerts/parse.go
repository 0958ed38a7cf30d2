// SPDX-License-Identifier: Apache-2.0

package alerts

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"slices"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
	"github.com/otelcol-gpu/otelcol-gpu/internal/boundtext"
)

// alert is an alert as Alertmanager (/api/v2/alerts) and Prometheus (/api/v1/alerts) write it.
type alert struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	// StartsAt is Alertmanager's, ActiveAt and State are Prometheus'.
	StartsAt time.Time `json:"startsAt"`
	ActiveAt time.Time `json:"activeAt"`
	State    string    `json:"state"`
}

// parse reads an answer. Alerts that do not fire yet are left out, and those that are for
// machines (severity none, as the Watchdog's), and those of other hosts than the given one.
func parse(body []byte, source, host string) ([]view.Alert, error) {
	var all []alert
	if source == Prometheus {
		var answer struct {
			Status string `json:"status"`
			Data   *struct {
				Alerts []alert `json:"alerts"`
			} `json:"data"`
		}
		if err := json.Unmarshal(body, &answer); err != nil {
			return nil, fmt.Errorf("%w: %w", errAnswer, err)
		}
		if answer.Status != "success" || answer.Data == nil {
			return nil, fmt.Errorf("%w: its status is %q", errAnswer, boundtext.Line(answer.Status, boundtext.MinBytes))
		}
		all = slices.DeleteFunc(answer.Data.Alerts, func(a alert) bool { return a.State != "firing" })
	} else if err := json.Unmarshal(body, &all); err != nil {
		return nil, fmt.Errorf("%w: %w", errAnswer, err)
	}
	var firing []view.Alert
	for i := range all {
		if a := &all[i]; a.Labels["severity"] != "none" && a.isOf(host) {
			firing = append(firing, a.view())
		}
	}
	slices.SortStableFunc(firing, compare)
	return firing[:min(len(firing), maxAlerts)], nil
}

// isOf reports whether an alert is of a host, or of none. The label instance is a host, or a
// host and a port.
func (a *alert) isOf(host string) bool {
	instance := a.Labels["instance"]
	if instance == "" || host == "" || instance == host {
		return true
	}
	name, _, err := net.SplitHostPort(instance)
	return err == nil && name == host
}

func (a *alert) view() view.Alert {
	v := view.Alert{
		Name:     boundtext.Line(a.Labels["alertname"], maxText),
		Severity: boundtext.Line(a.Labels["severity"], maxText),
		Summary:  boundtext.Line(cmp.Or(a.Annotations["summary"], a.Annotations["description"]), maxText),
		Since:    a.StartsAt.UTC(),
	}
	if a.StartsAt.IsZero() {
		v.Since = a.ActiveAt.UTC()
	}
	// It becomes a link: of another scheme it could be a script.
	if u, err := url.Parse(a.Annotations["runbook_url"]); err == nil && (u.Scheme == "https" || u.Scheme == "http") && len(u.String()) <= maxText {
		v.Runbook = u.String()
	}
	return v
}

// compare orders alerts: critical ones first, of equal ones the oldest.
func compare(a, b view.Alert) int {
	return cmp.Or(cmp.Compare(rank(a.Severity), rank(b.Severity)), a.Since.Compare(b.Since), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Summary, b.Summary))
}

func rank(severity string) int {
	order := []string{"critical", "warning"}
	if i := slices.Index(order, severity); i >= 0 {
		return i
	}
	return len(order)
}
