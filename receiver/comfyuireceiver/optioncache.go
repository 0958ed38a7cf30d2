// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// optionCache holds sets of attributes, up to maxSeries of them: the metric has no more
// series. Further ones are made for each measurement. The zero value is ready for use.
type optionCache struct {
	options sync.Map // to metric.MeasurementOption
	size    atomic.Int64
}

// find returns the attributes of a key; nil if they are not held.
func (c *optionCache) find(key any) metric.MeasurementOption {
	if option, ok := c.options.Load(key); ok {
		return option.(metric.MeasurementOption)
	}
	return nil
}

// add makes the attributes of a key, and holds them if there is room.
func (c *optionCache) add(key any, attributes ...attribute.KeyValue) metric.MeasurementOption {
	option := metric.WithAttributeSet(attribute.NewSet(attributes...))
	if c.size.Add(1) > maxSeries {
		c.size.Add(-1)
		return option
	}
	if _, held := c.options.LoadOrStore(key, option); held {
		c.size.Add(-1)
	}
	return option
}
