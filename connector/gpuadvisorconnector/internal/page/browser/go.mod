module github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/page/browser

go 1.26.0

require (
	github.com/chromedp/cdproto v0.159.0
	github.com/chromedp/chromedp v0.23.0
	github.com/otelcol-gpu/otelcol-gpu v0.0.0
	github.com/stretchr/testify v1.12.1
	go.uber.org/goleak v1.3.0
)

require (
	github.com/go-json-experiment/json v1.27.2 // indirect
	go.yaml.in/yaml/v3 v3.0.6 // indirect
)

replace github.com/otelcol-gpu/otelcol-gpu => ../../../../..
