// SPDX-License-Identifier: Apache-2.0

package stack

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
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

// Query asks an instant query.
func (s Store) Query(ctx context.Context, query string) ([]Series, error) {
	return s.ask(ctx, "query", url.Values{"query": {query}})
}

// QueryAt asks an instant query at a time.
func (s Store) QueryAt(ctx context.Context, query string, at time.Time) ([]Series, error) {
	return s.ask(ctx, "query", url.Values{"query": {query}, "time": {strconv.FormatFloat(float64(at.UnixMilli())/1000, 'f', 3, 64)}})
}

func (s Store) ask(ctx context.Context, path string, values url.Values) ([]Series, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+"/api/v1/"+path, strings.NewReader(values.Encode()))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	var answer struct {
		Status, Error string
		Data          struct {
			Result []struct {
				Metric map[string]string
				Value  [2]any
				Values [][2]any
			}
		}
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return nil, fmt.Errorf("%s answered %s: %w", s.URL, response.Status, err)
	}
	if answer.Status != "success" {
		return nil, fmt.Errorf("%s refused %q: %s", s.URL, values.Get("query"), answer.Error)
	}
	series := make([]Series, 0, len(answer.Data.Result))
	for _, r := range answer.Data.Result {
		one := Series{Labels: r.Metric}
		if r.Values == nil {
			r.Values = [][2]any{r.Value}
		}
		for _, v := range r.Values {
			p, err := parsePoint(v)
			if err != nil {
				return nil, err
			}
			one.Points = append(one.Points, p)
		}
		series = append(series, one)
	}
	return series, nil
}

func parsePoint(v [2]any) (Point, error) {
	at, ok := v[0].(float64)
	text, isText := v[1].(string)
	if !ok || !isText {
		return Point{}, fmt.Errorf("cannot read the point %v", v)
	}
	value, err := strconv.ParseFloat(text, 64)
	return Point{Time: at, Value: value}, err
}
