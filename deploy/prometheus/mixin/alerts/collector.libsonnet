local lib = import '../lib.libsonnet';

{
  local config = $._config,
  local own(name, matchers=[]) = name + lib.selector(matchers + [config.telemetrySelector]),
  local counter(name, matchers=[]) = own(name + config.telemetryCounterSuffix, matchers),
  local alert = function(name, severity, expr, summary, action) lib.alert(config, name, severity, expr, summary, action),

  // hw_gpu_count is emitted by every host that runs the nvml receiver, also without a driver.
  local count = 'hw_gpu_count' + lib.selector([config.gpuSelector]),
  local duration(part, matchers=[]) = own('otelcol_receiver_nvml_card_duration' + config.telemetryDurationSuffix + part, matchers),
  local readings = duration('_count'),
  local misses = counter('otelcol_receiver_nvml_card_misses'),

  prometheusAlerts+:: {
    groups+: [
      {
        name: 'gpu-collector',
        interval: config.interval,
        rules: [
          alert(
            'GPUTelemetryMissing',
            'critical',
            'group by (%(host)s) (last_over_time(%(count)s[%(memory)s]))\nunless\ngroup by (%(host)s) (present_over_time(%(count)s[%(fresh)s]))\n' % {
              host: config.hostLabels,
              count: count,
              memory: config.telemetryMemory,
              fresh: config.telemetryFresh,
            },
            'No GPU metrics from {{ $labels.instance }}: its collector does not write, or the host is down.',
            'See whether the host is up and otelcol-gpu runs on it; its log names what it cannot write.',
          ),
          alert(
            'GPUTelemetrySlow',
            'warning',
            |||
              60 * (
                rate(%(readings)s[%(window)s])
                - max without (le) (rate(%(fast)s[%(window)s]))
              ) > %(slow)g
              or
              rate(%(misses)s[%(window)s])
              / (rate(%(misses)s[%(window)s]) + rate(%(readings)s[%(window)s])) > %(missed)g
            ||| % {
              readings: readings,
              fast: duration('_bucket', [lib.bucket(config.readingSlowBucket)]),
              misses: misses,
              window: config.telemetryWindow,
              slow: config.readingsSlowPerMinute,
              missed: config.readingsMissedShare,
            },
            'Reading GPU {{ $labels.hw_name }} of {{ $labels.instance }} takes close to card_timeout, or readings are skipped.',
            'See which NVML calls are slow; raise card_timeout or collection_interval if the driver is slow by nature.',
          ),
          alert(
            'CollectorExportFailing',
            'warning',
            std.join('or\n', [
              'sum by (%s, exporter) (rate(%s[%s])) > 0\n' % [
                config.hostLabels,
                counter('otelcol_exporter_send_failed_' + kind),
                config.exportWindow,
              ]
              for kind in ['metric_points', 'spans', 'log_records']
            ]),
            'Exporter {{ $labels.exporter }} of the collector of {{ $labels.instance }} is failing.',
            'See the log of the collector for what the store answers, and whether the store is up.',
          ),
          alert(
            'CollectorBacklogGrowing',
            'warning',
            '%s / %s > %g\nand\nderiv(%s[%s]) > 0\n' % [
              own('otelcol_exporter_queue_size'),
              own('otelcol_exporter_queue_capacity'),
              config.backlogShare,
              own('otelcol_exporter_queue_size'),
              config.backlogWindow,
            ],
            'The queue of {{ $labels.exporter }} of the collector of {{ $labels.instance }} is {{ $value | humanizePercentage }} full and grows.',
            'Bring the store back, or give the queue more room, before the newest data is refused.',
          ),
          alert(
            'CollectorDataDropped',
            'warning',
            std.join('or\n', [
              'label_replace(\n  sum by (%s) (\n    %s\n  ),\n  "counter", "%s", "instance", ".*"\n)\n' % [
                config.hostLabels,
                std.strReplace(lib.risen(counter(c.name, [c.matcher]), config.eventWindow), '\n', '\n    '),
                c.name,
              ]
              for c in config.dropCounters
            ]),
            'The collector of {{ $labels.instance }} dropped data: {{ $labels.counter }} rose by {{ printf "%.0f" $value }}.',
            'Find the counter in the runbook: it says which limit or store dropped the data.',
          ),
          alert(
            'Watchdog',
            'none',
            'vector(1)',
            'This alert always fires: it shows that alerts arrive.',
            'None. Let a dead-man\'s switch report when it stops.',
          ),
        ],
      },
    ],
  },
}
