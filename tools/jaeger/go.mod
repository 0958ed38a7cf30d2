module github.com/otelcol-gpu/otelcol-gpu/tools/jaeger

go 1.26

tool github.com/jaegertracing/jaeger/cmd/all-in-one

require github.com/jaegertracing/jaeger v1.76.0

replace github.com/Shopify/sarama => github.com/Shopify/sarama v1.33.0
