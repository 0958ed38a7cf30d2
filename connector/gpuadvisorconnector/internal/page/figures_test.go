// SPDX-License-Identifier: Apache-2.0

package page

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
)

// TestFiguresWithoutScriptsHaveThreeSignificantDigits as those of the scripts have: a test in Chromium
// holds format.js against the same file.
func TestFiguresWithoutScriptsHaveThreeSignificantDigits(t *testing.T) {
	raw, err := os.ReadFile("testdata/figures.json")
	require.NoError(t, err)
	var want map[string][][2]any
	require.NoError(t, json.Unmarshal(raw, &want))
	english := shell{Language: texts.English}
	formats := map[string]func(v float64) string{
		"seconds": english.Seconds, "watts": english.Watts, "age": english.Age, "celsius": english.Celsius,
		"gib": func(v float64) string { return english.GiB(int64(v)) },
	}
	require.Len(t, want, len(formats))
	for name, format := range formats {
		for _, each := range want[name] {
			v, ok := each[0].(float64)
			require.True(t, ok)
			assert.Equal(t, each[1], format(v), "%s of %v", name, v)
		}
	}
	assert.Equal(t, "460 毫秒", shell{Language: texts.Chinese}.Seconds(0.46))
}
