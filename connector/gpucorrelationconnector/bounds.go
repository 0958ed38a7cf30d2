// SPDX-License-Identifier: Apache-2.0

package gpucorrelationconnector

import "github.com/otelcol-gpu/otelcol-gpu/internal/bounds"

var _ bounds.Registered = (*joinConnector)(nil)

// Bounds implements [bounds.Registered].
func (c *joinConnector) Bounds() []bounds.Bound { return bounds.Of(c.joiner, &c.once) }
