{
  prometheusRules+:: {
    groups+:
      // A copy of ../../rules/history.yaml, made by `make generate`.
      std.parseYaml(importstr 'history.yaml').groups + [
        {
          name: 'gpu-prices',
          interval: '1m',
          rules: [
            { record: 'gpu:price:per_kwh', expr: 'vector(%s)' % $._config.pricePerKWh },
            { record: 'gpu:price:per_card_hour', expr: 'vector(%s)' % $._config.pricePerGPUHour },
          ],
        },
      ],
  },
}
