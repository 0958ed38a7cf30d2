// SPDX-License-Identifier: Apache-2.0

package page

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
)

// languageOf is the language of an answer: that of ?lang=, else the first of
// Accept-Language that the catalogue has, else English.
func languageOf(r *http.Request) texts.Language {
	if l, ok := known(r.URL.Query().Get("lang")); ok {
		return l
	}
	best, quality := texts.English, 0.0
	for part := range strings.SplitSeq(r.Header.Get("Accept-Language"), ",") {
		tag, parameter, _ := strings.Cut(part, ";")
		q := 1.0
		if value, ok := strings.CutPrefix(strings.TrimSpace(parameter), "q="); ok {
			var err error
			if q, err = strconv.ParseFloat(value, 64); err != nil {
				continue
			}
		}
		if l, ok := known(tag); ok && q > quality {
			best, quality = l, q
		}
	}
	return best
}

// known is the language of a tag such as zh-CN.
func known(tag string) (texts.Language, bool) {
	primary, _, _ := strings.Cut(strings.ToLower(strings.TrimSpace(tag)), "-")
	for _, l := range texts.Languages() {
		if string(l) == primary {
			return l, true
		}
	}
	return "", false
}
