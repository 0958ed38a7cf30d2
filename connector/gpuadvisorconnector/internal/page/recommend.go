// SPDX-License-Identifier: Apache-2.0

package page

import (
	"math"
	"net/http"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
	"github.com/otelcol-gpu/otelcol-gpu/internal/recommend"
)

// Recommender says what a week's requests say. Its method may be called from any goroutine, and
// what it returns is not changed afterwards.
type Recommender interface {
	Recommendations() recommend.Recommendations
}

// recommendations answers GET /v1/recommendations.
func (p *Page) recommendations(w http.ResponseWriter, r *http.Request) {
	known := p.settings.Recommender.Recommendations()
	w.Header().Set("Cache-Control", "no-store")
	answer(w, r, viewRecommendations(&known, languageOf(r)))
}

func viewRecommendations(known *recommend.Recommendations, l texts.Language) view.Recommendations {
	v := view.Recommendations{
		Since: known.Since.UTC(), All: viewHeldBack(&known.All, l), GPUs: make([]view.HeldBack, 0, len(known.GPUs)),
		Classes: make([]view.ClassSizes, 0, len(known.Objectives)), Replayed: known.Replayed,
	}
	for i := range known.GPUs {
		v.GPUs = append(v.GPUs, viewHeldBack(&known.GPUs[i], l))
	}
	for i := range known.Objectives {
		o := &known.Objectives[i]
		c := viewClass(o, l)
		for _, s := range known.Safe {
			if s.Class == o.Class {
				c.Safe = append(c.Safe, view.SafeSize{Model: s.Product, Side: side(s.Side), Bound: string(s.Bound)})
			}
		}
		v.Classes = append(v.Classes, c)
	}
	return v
}

// side is a size; nil if it is not known.
func side(pixels int) *int {
	if pixels <= 0 {
		return nil
	}
	return &pixels
}

func viewHeldBack(h *recommend.Held, l texts.Language) view.HeldBack {
	shortage := h.Shortage()
	held := h.By(shortage)
	if shortage == recommend.None {
		held = h.Memory + h.Time + h.Size
	}
	m := texts.Message{Key: "recommend." + string(shortage), Args: texts.Args{"held": hours(held), "work": hours(h.Work)}}
	if h.Requests == 0 {
		m = texts.Message{Key: "recommend.unknown"}
	}
	return view.HeldBack{
		GPU: h.GPU, Model: h.Product, Shortage: string(shortage), Message: m.In(l), Requests: h.Requests, Missed: h.Missed,
		Offered: h.Work, Memory: h.Memory, Time: h.Time, Size: h.Size, OutOfMemory: h.Dead,
	}
}

// hours are seconds in hours: 0.00833, 1.50, 121.
func hours(seconds float64) string { return threeDigits(seconds / 3600) }

func viewClass(o *recommend.Objective, l texts.Language) view.ClassSizes {
	c := view.ClassSizes{TaskClass: o.Class, Requests: o.Requests, Objective: side(o.Side), Limited: o.Known && !o.Enough, Safe: []view.SafeSize{}}
	m := texts.Message{Key: "recommend.sizes.unknown"}
	if o.Known {
		share, came := o.Share, o.AsTheyCame
		c.Share, c.AsTheyCame = &share, &came
		m = texts.Message{Key: "recommend.sizes.limit", Args: texts.Args{"side": o.Side, "share": percent(share), "came": percent(came)}}
		switch {
		case o.Enough:
			m = texts.Message{Key: "recommend.sizes.enough", Args: texts.Args{"share": percent(share)}}
		case o.Side == 0:
			m = texts.Message{Key: "recommend.sizes.none", Args: texts.Args{"share": percent(share)}}
		}
	}
	c.Message = m.In(l)
	return c
}

// percent is a part in whole percent, and never more than it is.
func percent(part float64) int { return int(math.Floor(100*part + 1e-9)) }
