// SPDX-License-Identifier: Apache-2.0

package stack

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/api"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
)

// Store is a server that answers PromQL under URL/api/v1.
type Store struct{ URL string }

// Series is one series of an answer.
type Series struct {
	Labels map[string]string
	Points []Point
}

// Point is one value of a series; its time is in Unix seconds.
type Point struct{ Time, Value float64 }

// Value is the newest value of the series.
func (s Series) Value() float64 { return s.Points[len(s.Points)-1].Value }

// Query runs an instant query at the server's present time.
func (s Store) Query(ctx context.Context, query string) ([]Series, error) {
	return s.QueryAt(ctx, query, time.Time{})
}

// QueryAt runs an instant query at a time.
func (s Store) QueryAt(ctx context.Context, query string, at time.Time) ([]Series, error) {
	client, err := api.NewClient(api.Config{Address: s.URL, Client: client})
	if err != nil {
		return nil, err
	}
	value, _, err := v1.NewAPI(client).Query(ctx, query, at)
	if err != nil {
		return nil, fmt.Errorf("query %q at %s: %w", query, s.URL, err)
	}
	switch value := value.(type) {
	case model.Vector:
		series := make([]Series, 0, len(value))
		for _, sample := range value {
			series = append(series, Series{Labels: labels(sample.Metric), Points: []Point{{seconds(sample.Timestamp), float64(sample.Value)}}})
		}
		return series, nil
	case model.Matrix:
		series := make([]Series, 0, len(value))
		for _, stream := range value {
			one := Series{Labels: labels(stream.Metric)}
			for _, p := range stream.Values {
				one.Points = append(one.Points, Point{seconds(p.Timestamp), float64(p.Value)})
			}
			series = append(series, one)
		}
		return series, nil
	}
	return nil, fmt.Errorf("query %q at %s returned %s, not series", query, s.URL, value.Type())
}

func labels(metric model.Metric) map[string]string {
	all := make(map[string]string, len(metric))
	for name, value := range metric {
		all[string(name)] = string(value)
	}
	return all
}

func seconds(t model.Time) float64 { return float64(t) / 1000 }
