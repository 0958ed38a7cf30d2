// SPDX-License-Identifier: Apache-2.0

// Command otelcol-gpu-report queries a Prometheus-compatible store and writes one HTML
// page about what GPUs did for images.
//
//	otelcol-gpu-report -store http://127.0.0.1:8428 -traces http://127.0.0.1:16686 -window 7d -out report.html
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/api"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"

	"github.com/otelcol-gpu/otelcol-gpu/cmd/otelcol-gpu-report/internal/report"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "otelcol-gpu-report:", err)
		}
		os.Exit(1)
	}
}

func run(arguments []string) error {
	flags := flag.NewFlagSet("otelcol-gpu-report", flag.ContinueOnError)
	store := flags.String("store", "http://127.0.0.1:8428", "URL of Prometheus, VictoriaMetrics or another store with their API")
	traces := flags.String("traces", "", "URL of Jaeger's query API, such as http://127.0.0.1:16686, for the slowest images and why they were slow (default: omitted)")
	window := flags.String("window", "7d", "length of the time range: 24h, 7d, 30d")
	end := flags.String("end", "", "end of the time range, RFC 3339 (default: now)")
	zone := flags.String("timezone", "Local", "time zone of the hours of the day, for example Asia/Shanghai or UTC")
	out := flags.String("out", "report.html", "file to write; - for standard output")
	tokenFile := flags.String("token-file", "", "file with a bearer token for the store")
	kwh := flags.Float64("price-kwh", 0, "price of a kWh")
	gpuHour := flags.Float64("price-card-hour", 0, "price of a GPU-hour")
	currency := flags.String("currency", "€", "currency of the prices")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	s := report.Settings{End: time.Now(), PriceKWh: *kwh, PriceGPUHour: *gpuHour, Currency: *currency}
	w, err := model.ParseDuration(*window)
	if err != nil {
		return fmt.Errorf("-window: %q is not a valid duration; use for example 24h, 7d or 30d", *window)
	}
	s.Window = time.Duration(w)
	if *end != "" {
		if s.End, err = time.Parse(time.RFC3339, *end); err != nil {
			return fmt.Errorf("-end: %q is not a valid time; use for example 2026-03-01T00:00:00Z", *end)
		}
	}
	if s.Zone, err = time.LoadLocation(*zone); err != nil {
		return fmt.Errorf("-timezone: %q is not a valid time zone; use for example Asia/Shanghai: %w", *zone, err)
	}
	if err := s.Check(); err != nil {
		return err
	}
	storeURL, err := url.Parse(*store)
	if err != nil || storeURL.Host == "" {
		return fmt.Errorf("-store: %q is not a valid URL; use http://host:port, for example http://127.0.0.1:9090", *store)
	}
	client, err := api.NewClient(api.Config{Address: *store, RoundTripper: withToken(*tokenFile, storeURL)})
	if err != nil {
		return err
	}
	var slow *report.Traces
	if *traces != "" {
		if u, err := url.Parse(*traces); err != nil || u.Host == "" {
			return fmt.Errorf("-traces: %q is not a valid URL; use http://host:port, for example http://127.0.0.1:16686", *traces)
		}
		slow = &report.Traces{URL: *traces, Client: http.DefaultClient}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	r, err := report.Make(ctx, v1.NewAPI(client), slow, s)
	if err != nil {
		return err
	}
	text, err := r.HTML()
	if err != nil {
		return err
	}
	if *out == "-" {
		_, err = os.Stdout.Write(text)
		return err
	}
	if err := os.WriteFile(*out, text, 0o600); err != nil {
		return err
	}
	peak := ""
	if r.PeakHour >= 0 {
		peak = fmt.Sprintf("busiest hour %02d:00, ", r.PeakHour)
	}
	fmt.Printf("%s: %.0f images, %s%d GPUs\n", *out, r.Images, peak, len(r.GPUs))
	return nil
}

// bearer adds a token to each request to the store; the file is read each time, so that
// it can be renewed. Requests to another origin, to which only a redirect can lead, are
// refused: whoever answers for the store must not learn the token by pointing elsewhere.
type bearer struct {
	file  string
	store *url.URL
}

func withToken(file string, store *url.URL) http.RoundTripper {
	if file == "" {
		return api.DefaultRoundTripper
	}
	return bearer{file, store}
}

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != b.store.Scheme || !strings.EqualFold(r.URL.Host, b.store.Host) {
		return nil, fmt.Errorf("the store redirects to %s://%s, which must not get the token of -token-file; give that URL as -store if it is right", r.URL.Scheme, r.URL.Host)
	}
	token, err := os.ReadFile(b.file)
	if err != nil {
		return nil, fmt.Errorf("-token-file: %w", err)
	}
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	return api.DefaultRoundTripper.RoundTrip(r)
}
