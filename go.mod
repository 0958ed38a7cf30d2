module github.com/otelcol-gpu/otelcol-gpu

go 1.26.0
