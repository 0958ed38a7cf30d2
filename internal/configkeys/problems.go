// SPDX-License-Identifier: Apache-2.0

package configkeys

import (
	"errors"
	"fmt"
	"net/url"
)

// Problems collects the mistakes of one configuration, in the order in which they are
// added. The zero value is ready for use.
type Problems struct {
	errs []error
}

// Add adds one mistake: the whole path of the key, its value (nil to leave it out), what
// is wrong with it, and the remedy. Text values are quoted.
//
//	card_timeout: -1s is negative; use a positive duration, for example 2s
func (p *Problems) Add(key string, value any, fault, remedy string) {
	switch v := value.(type) {
	case nil:
		p.errs = append(p.errs, fmt.Errorf("%s: %s; %s", key, fault, remedy))
	case string:
		p.errs = append(p.errs, fmt.Errorf("%s: %q %s; %s", key, v, fault, remedy))
	default:
		p.errs = append(p.errs, fmt.Errorf("%s: %v %s; %s", key, v, fault, remedy))
	}
}

// AddIf is [Problems.Add] under a condition.
func (p *Problems) AddIf(wrong bool, key string, value any, fault, remedy string) {
	if wrong {
		p.Add(key, value, fault, remedy)
	}
}

// Err is all mistakes as one error, nil if there are none.
func (p *Problems) Err() error { return errors.Join(p.errs...) }

// IsHTTP reports whether a text is a URL of a web server, with its scheme and its host.
func IsHTTP(text string) bool {
	u, err := url.Parse(text)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}
