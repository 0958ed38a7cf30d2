// SPDX-License-Identifier: Apache-2.0

package boards

import (
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestOneGPUListsItsAlerts asks which alerts the dashboard of gpu1 of a host lists.
func TestOneGPUListsItsAlerts(t *testing.T) {
	var matchers []*labels.Matcher
	for _, p := range identity() {
		if strings.HasPrefix(p.Title, "Firing alerts") {
			expr, err := parser.NewParser(parser.Options{}).ParseExpr(strings.NewReplacer("$host", "h1", "$gpu", "gpu1").Replace(p.Queries[0].Expr))
			require.NoError(t, err)
			for _, selector := range parser.ExtractSelectors(expr) {
				matchers = append(matchers, selector...)
			}
		}
	}
	require.NotEmpty(t, matchers)
	for _, test := range []struct {
		instance, gpu string
		listed        bool
	}{
		{"h1", "gpu1", true},
		{"h1", "gpu1/mig0", true},
		{"h1", "", true}, // of the host
		{"h1", "gpu0", false},
		{"h1", "gpu11", false},
		{"h2", "gpu1", false},
		{"h2", "", false},
	} {
		alert := labels.FromStrings("__name__", "ALERTS", "alertstate", "firing", "instance", test.instance, "hw_name", test.gpu)
		listed := true
		for _, m := range matchers {
			listed = listed && m.Matches(alert.Get(m.Name))
		}
		assert.Equal(t, test.listed, listed, "%s %s", test.instance, test.gpu)
	}
}
