// SPDX-License-Identifier: Apache-2.0

package page

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
	"github.com/otelcol-gpu/otelcol-gpu/internal/recommend"
)

// someWeek is a week that is short of memory on one GPU of two.
type someWeek struct{}

func (someWeek) Recommendations() recommend.Recommendations {
	a := recommend.Held{GPU: "GPU-1", Product: "RTX", Requests: 1000, Missed: 200, Work: 7200, Memory: 1800, Time: 36, Dead: 360}
	b := recommend.Held{GPU: "GPU-2", Product: "RTX", Requests: 1000, Work: 7200}
	return recommend.Recommendations{
		Since: time.Unix(1_800_000_000, 0), GPUs: []recommend.Held{a, b}, Replayed: 0.5,
		All: recommend.Held{Requests: 2000, Missed: 200, Work: 14400, Memory: 1800, Time: 36, Dead: 360},
		Safe: []recommend.Safe{
			{Class: "people", Product: "L4", Requests: 3, Bound: recommend.NotKnown}, {Class: "people", Product: "RTX", Requests: 900, Side: 1024, Bound: recommend.ByMemory},
		},
		Objectives: []recommend.Objective{
			{Class: "buildings", Requests: 90},
			{Class: "people", Requests: 900, Side: 848, Known: true, Share: 0.9599, AsTheyCame: 0.79},
			{Class: "thumbnails", Requests: 900, Side: 512, Known: true, Enough: true, Share: 0.99, AsTheyCame: 0.99},
			{Class: "videos", Requests: 900, Known: true, Share: 0.4},
		},
	}
}

func TestRecommendationsAreInWords(t *testing.T) {
	s := serve(t, Settings{Recommender: someWeek{}})
	get := func(address string) (v view.Recommendations) {
		response, text := s.request(t, "GET", address)
		require.Equal(t, http.StatusOK, response.StatusCode)
		require.NoError(t, json.Unmarshal([]byte(text), &v))
		return v
	}
	v := get("/v1/recommendations")
	assert.Equal(t, "memory", v.All.Shortage)
	assert.Equal(t, "Memory is short: it held back 0.500 of 4.00 GPU hours in the last seven days. Use a GPU with more memory, or run fewer servers or other programs on it.", v.All.Message)
	require.Len(t, v.GPUs, 2)
	assert.Equal(t, "none", v.GPUs[1].Shortage)
	assert.Equal(t, "Nothing is short: 0 of 2.00 GPU hours were held back in the last seven days.", v.GPUs[1].Message)
	assert.InDelta(t, 1800, v.GPUs[0].Memory, 1e-9)
	assert.InDelta(t, 360, v.GPUs[0].OutOfMemory, 1e-9)
	messages, safe := map[string]string{}, map[string][]view.SafeSize{}
	for _, c := range v.Classes {
		messages[c.TaskClass], safe[c.TaskClass] = c.Message, c.Safe
	}
	assert.Equal(t, map[string]string{
		"buildings":  "Too few requests are known to recommend a size.",
		"people":     "Allow at most 848 px: 95% of the last seven days' requests would have met their objective, instead of 79%.",
		"thumbnails": "No limit is needed: 99% of the last seven days' requests met their objective.",
		"videos":     "No size would have been small enough: 40% of the last seven days' requests meet their objective with the smallest one that was tried.",
	}, messages)
	pixels := 1024
	assert.Equal(t, []view.SafeSize{{Model: "L4", Bound: "not_known"}, {Model: "RTX", Side: &pixels, Bound: "memory"}}, safe["people"])
	assert.Nil(t, v.Classes[0].Objective)
	assert.Nil(t, v.Classes[0].Share)
	assert.Equal(t, []bool{false, true, false, true}, []bool{v.Classes[0].Limited, v.Classes[1].Limited, v.Classes[2].Limited, v.Classes[3].Limited})

	v = get("/v1/recommendations?lang=zh")
	assert.Equal(t, "显存不足：最近七天 4.00 个 GPU 小时中有 0.500 个因此受阻。请换用显存更大的 GPU，或减少该 GPU 上的服务或其他程序。", v.All.Message)
	s = serve(t, Settings{})
	response, _ := s.request(t, "GET", "/v1/recommendations")
	assert.Equal(t, http.StatusNotFound, response.StatusCode, "without a recommender")
}

func TestEachShortageHasItsText(t *testing.T) {
	for _, shortage := range append(recommend.Shortages(), recommend.None) {
		assert.True(t, texts.Has("recommend."+string(shortage)), shortage)
	}
	for want, seconds := range map[string]float64{"0": 0, "0.00833": 30, "1.50": 5400, "121": 435_000} {
		assert.Equal(t, want, hours(seconds))
	}
	assert.Equal(t, "No requests are known yet.", viewHeldBack(&recommend.Held{}, texts.English).Message)
}
