// SPDX-License-Identifier: Apache-2.0

package browser

import "strings"

// withLanguage is an address below a base with ?lang=.
func withLanguage(base, path, language string) string {
	url := strings.TrimSuffix(base, "/") + "/" + strings.TrimPrefix(path, "/")
	separator := "?"
	if strings.Contains(url, "?") {
		separator = "&"
	}
	return url + separator + "lang=" + language
}
