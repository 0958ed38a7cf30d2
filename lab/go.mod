module github.com/otelcol-gpu/otelcol-gpu/lab

go 1.26.0

require (
	github.com/coder/websocket v1.8.15
	github.com/stretchr/testify v1.12.1
	go.uber.org/goleak v1.3.0
	go.uber.org/zap v1.28.0
)

require (
	github.com/NVIDIA/go-nvml v0.13.4-1 // indirect
	go.yaml.in/yaml/v3 v3.0.6 // indirect
	golang.org/x/sys v0.49.0 // indirect
)

require (
	github.com/otelcol-gpu/otelcol-gpu v0.0.0
	go.uber.org/multierr v1.11.0 // indirect
)

replace github.com/otelcol-gpu/otelcol-gpu => ../
