// SPDX-License-Identifier: Apache-2.0

package configkeys

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/confmap"
	"go.uber.org/goleak"
	"go.yaml.in/yaml/v3"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type inner struct {
	Gap   time.Duration `mapstructure:"gap"`
	Share float64       `mapstructure:"share"`
}

type squashed struct {
	Wait time.Duration `mapstructure:"wait"`
}

type config struct {
	squashed `mapstructure:",squash"`
	Only     []string                 `mapstructure:"only"`
	Offsets  map[string]time.Duration `mapstructure:"offsets"`
	Rules    []inner                  `mapstructure:"rules"`
	Limit    int                      `mapstructure:"limit"`
	On       bool                     `mapstructure:"on"`
	Name     string                   `mapstructure:"name"`
	Storage  *component.ID            `mapstructure:"storage"`
	Server   confighttp.ServerConfig  `mapstructure:"server"`
	Client   confighttp.ClientConfig  `mapstructure:"client"`
}

func TestMistakesAreNamedWithTheirPathValueAndRemedy(t *testing.T) {
	for text, want := range map[string]string{
		"wiat: 10s":                           `wiat: unknown key; did you mean wait?`,
		"zzzzzzzz: 1":                         `zzzzzzzz: unknown key; the keys here are client, limit, name, offsets, on, only, rules, server, storage, wait`,
		"wait: 10":                            `wait: 10 has no unit; use a duration with a unit, for example 10s`,
		"wait: 10.5":                          `wait: 10.5 has no unit; use a duration with a unit, for example 10.5s`,
		"wait: soon":                          `wait: "soon" is not a valid duration; use a number with a unit, for example 500ms, 15s or 10m`,
		"offsets: {a: 5}":                     `offsets::a: 5 has no unit; use a duration with a unit, for example 5s`,
		"offsets: 5":                          `offsets: 5 is not a group of keys; write name: value pairs indented below it`,
		"only: hw.power":                      `only: "hw.power" is not a list; write a list, for example [hw.power]`,
		"rules: [{gap: 1}]":                   `rules::0::gap: 1 has no unit; use a duration with a unit, for example 1s`,
		"rules: [{gab: 1s}]":                  `rules::0::gab: unknown key; did you mean gap?`,
		"rules: [{share: x}]":                 `rules::0::share: "x" is not a number; use a number without quotes, for example 0.5`,
		"rules: [5]":                          `rules::0: 5 is not a group of keys; write the keys indented below 0:`,
		"limit: 1.5":                          `limit: 1.5 is not a whole number; use a number without quotes, for example 100`,
		`limit: "7"`:                          `limit: "7" is not a whole number; use a number without quotes, for example 100`,
		`"on": 1`:                             `on: 1 is not a valid value; use true or false`,
		"name: [a]":                           `name: is a list or a group of keys; use a single value`,
		"server: {tls: {cert_fil: a}}":        `server::tls::cert_fil: unknown key; did you mean cert_file?`,
		"server: {read_header_timeout: 5}":    `server::read_header_timeout: 5 has no unit; use a duration with a unit, for example 5s`,
		"server: {cors: {allowed_origin: a}}": `server::cors::allowed_origin: unknown key; did you mean allowed_origins?`,
		"server: {endpont: a}":                `server::endpont: unknown key; did you mean endpoint?`,
		"client: {tls: {ca_fil: a}}":          `client::tls::ca_fil: unknown key; did you mean ca_file?`,
		"client: {compression_params: {levl: 1}}":     `client::compression_params::levl: unknown key; did you mean level?`,
		"client: {keepalive: {idle_con_timeout: 1s}}": `client::keepalive::idle_con_timeout: unknown key; did you mean idle_conn_timeout?`,
		"server: 8189": `server: 8189 is not a group of keys; write the keys indented below server:`,
		"limit: x\nwait: 3": "limit: \"x\" is not a whole number; use a number without quotes, for example 100\n" +
			"wait: 3 has no unit; use a duration with a unit, for example 3s",
	} {
		t.Run(text, func(t *testing.T) {
			var given map[string]any
			require.NoError(t, yaml.Unmarshal([]byte(text), &given))
			err := Unmarshal(confmap.NewFromStringMap(given), &config{})
			require.EqualError(t, err, want)
		})
	}
}

func TestWhatIsRightIsDecoded(t *testing.T) {
	const text = `
wait: 0
only: [a, b]
offsets: {a: 5s, b: 0}
rules: [{gap: 1s, share: 1}]
limit: 7
on: true
name: 5s
storage: file_storage/a
server:
  endpoint: 127.0.0.1:1
  tls: {cert_file: a, key_file: b}
  cors: {allowed_origins: ["*"]}
  keepalive: {enabled: false}
  response_headers: {X-A: b}
  auth: {authenticator: basic}
client:
  endpoint: http://a
  headers: {X-A: b}
  tls: {insecure: true}
`
	var given map[string]any
	require.NoError(t, yaml.Unmarshal([]byte(text), &given))
	var c config
	c.Server, c.Client = confighttp.NewDefaultServerConfig(), confighttp.NewDefaultClientConfig()
	require.NoError(t, Unmarshal(confmap.NewFromStringMap(given), &c))
	assert.Equal(t, map[string]time.Duration{"a": 5 * time.Second, "b": 0}, c.Offsets)
	assert.Equal(t, []inner{{Gap: time.Second, Share: 1}}, c.Rules)
	assert.Equal(t, "file_storage/a", c.Storage.String())
	assert.True(t, c.Server.TLS.HasValue())
}

func TestProblemsKeepTheirOrder(t *testing.T) {
	var p Problems
	require.NoError(t, p.Err())
	p.Add("b", "x", "is not a valid name", "use y")
	p.AddIf(false, "c", 1, "is wrong", "use 2")
	p.AddIf(true, "a", -time.Second, "is negative", "use a positive duration, for example 2s")
	require.EqualError(t, p.Err(), "b: \"x\" is not a valid name; use y\na: -1s is negative; use a positive duration, for example 2s")
}
