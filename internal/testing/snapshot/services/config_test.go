// SPDX-License-Identifier: Apache-2.0

package services

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpucorrelationconnector"
	"github.com/otelcol-gpu/otelcol-gpu/extension/queuecheckextension"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/snapshot"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver"
)

// TestConfig records the keys of each component's configuration, with the kinds of
// their values and the defaults.
func TestConfig(t *testing.T) {
	var lines []string
	for _, f := range []component.Factory{nvmlreceiver.NewFactory(), comfyuireceiver.NewFactory(), gpucorrelationconnector.NewFactory(), queuecheckextension.NewFactory()} {
		conf := confmap.New()
		require.NoError(t, conf.Marshal(f.CreateDefaultConfig()))
		configLines(&lines, f.Type().String()+" ", conf.ToStringMap())
	}
	snapshot.CheckPart(t, "config", lines)
}

// configLines prints a value, or what is below it.
func configLines(lines *[]string, key string, v any) {
	if m, ok := v.(map[string]any); ok && len(m) > 0 {
		for k, below := range m {
			next := key + "::" + k
			if key[len(key)-1] == ' ' {
				next = key + k
			}
			configLines(lines, next, below)
		}
		return
	}
	kind := fmt.Sprint(reflect.ValueOf(v).Kind())
	switch v.(type) {
	case time.Duration:
		kind = "duration"
	case nil:
		kind = "nothing"
	}
	*lines = append(*lines, fmt.Sprintf("%s = %s %#v", key, kind, configPlain(v)))
}

// configPlain is a value without the name of its type, which is the component's own.
func configPlain(v any) any {
	switch r := reflect.ValueOf(v); {
	case !r.IsValid():
		return nil
	case r.Type() == reflect.TypeFor[time.Duration]():
		return v.(time.Duration).String()
	case r.Kind() == reflect.String:
		return r.String()
	case r.Kind() == reflect.Bool:
		return r.Bool()
	case r.CanInt():
		return r.Int()
	case r.CanUint():
		return r.Uint()
	case r.CanFloat():
		return r.Float()
	}
	return fmt.Sprintf("%v", v)
}
