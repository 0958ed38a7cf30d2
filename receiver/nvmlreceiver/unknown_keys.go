package nvmlreceiver

import (
	"strconv"
	"strings"

	"go.opentelemetry.io/collector/confmap"

	"github.com/otelcol-gpu/otelcol-gpu/internal/configkeys"
)

// Unmarshal refuses keys that are not known, naming the nearest that is.
func (c *Config) Unmarshal(conf *confmap.Conf) error {
	known := confmap.New()
	if err := known.Marshal(c); err != nil {
		return err
	}
	if err := configkeys.Unknown("", conf.ToStringMap(), known.ToStringMap()); err != nil {
		return err
	}
	if err := indicesAsText(conf); err != nil {
		return err
	}
	return conf.Unmarshal(c)
}

// indicesAsText lets devices name indices without quotes: YAML reads 0 as a number.
func indicesAsText(conf *confmap.Conf) error {
	for _, key := range []string{"devices::include", "devices::exclude"} {
		list, ok := conf.Get(key).([]any)
		if !ok {
			continue
		}
		text := make([]any, len(list))
		for i, v := range list {
			text[i] = v
			if n, isNumber := v.(int); isNumber {
				text[i] = strconv.Itoa(n)
			}
		}
		outer, inner, _ := strings.Cut(key, confmap.KeyDelimiter)
		if err := conf.Merge(confmap.NewFromStringMap(map[string]any{outer: map[string]any{inner: text}})); err != nil {
			return err
		}
	}
	return nil
}
