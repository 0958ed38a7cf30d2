local lib = import '../lib.libsonnet';

{
  local config = $._config,
  local gpu(name, matchers=[]) = name + lib.selector(matchers + [config.gpuSelector]),
  local alert = function(name, severity, expr, summary, action) lib.alert(config, name, severity, expr, summary, action),

  // What is in use, less the weights that Dynamic VRAM could evict, where that is known.
  // Without "- 0" the arms would differ in the metric's name, and Prometheus refuses both
  // within the window of a subquery.
  local memoryNeeded =
    |||
      %(used)s - on (hw_id) group_left () sum by (hw_id) (%(elastic)s)
      or
      %(used)s - 0
    ||| % {
      used: gpu('hw_gpu_memory_usage_bytes'),
      elastic: 'comfyui_memory_elastic_bytes' + lib.selector([config.comfyuiSelector]),
    },
  local memoryShare(limit) =
    |||
      (
        %s)
      / %s > %g
    ||| % [std.strReplace(std.stripChars(memoryNeeded, '\n'), '\n', '\n  ') + '\n', gpu('hw_gpu_memory_limit_bytes'), limit],

  // The lowest memory use around a time some hours ago.
  local floor(hours) =
    local base = 'min_over_time((%s)[%s:%s]' % [
      std.strReplace(std.stripChars(memoryNeeded, '\n'), '\n', ' '),
      config.leakFloorWindow,
      config.leakFloorStep,
    ];
    if hours == 0 then base + ')' else '%s offset %s)' % [base, lib.times(hours, config.leakHour)],

  local xid(numbers) = gpu('hw_gpu_xid_errors_total', ['hw_gpu_xid=~"%s"' % lib.xids(numbers)]),
  local recovery = gpu('hw_gpu_recovery_action', ['hw_gpu_recovery_action!="none"']),

  local throttled(reasons) =
    'max without (hw_gpu_throttle_reason) (rate(%s[%s])) > %g'
    % [gpu('hw_gpu_throttle_time_seconds_total', ['hw_gpu_throttle_reason=~"%s"' % reasons]), config.throttleWindow, config.throttleShare],

  local limitOf(metric, state) = 'max without (state) (%s)' % gpu(metric, ['state="%s"' % state]),

  prometheusAlerts+:: {
    groups+: [
      {
        name: 'gpu',
        interval: config.interval,
        rules: [
          alert(
            'GPUMemoryUsageHigh',
            'warning',
            memoryShare(config.memoryHigh),
            'GPU {{ $labels.hw_name }} of {{ $labels.instance }} uses {{ $value | humanizePercentage }} of its memory.',
            'See which processes hold the memory, and whether prompts wait; move work to another GPU before prompts fail.',
          ),
          alert(
            'GPUMemoryUsageCritical',
            'critical',
            memoryShare(config.memoryCritical),
            'GPU {{ $labels.hw_name }} of {{ $labels.instance }} is almost out of memory: {{ $value | humanizePercentage }} in use.',
            'Check the queue now, and hold large prompts back or free the models of an idle ComfyUI on this GPU: the next prompt may fail.',
          ),
          alert(
            'GPUMemoryHeadroomShort',
            'warning',
            '%s > 0' % gpu('gpuadvisor_memory_shortage_bytes'),
            "GPU {{ $labels.hw_id }} of {{ $labels.instance }} is {{ $value | humanize1024 }}B short of the memory that ComfyUI's prompts of the last hour need.",
            'See which processes hold the memory, and stop or move what is not ComfyUI; the next prompt may fail.',
          ),
          alert(
            'GPUXidCritical',
            'critical',
            '%s\nor\n(%s > 0 and on (instance, hw_id) %s == 1)\n' % [
              lib.risen(xid(config.xidsCritical), config.eventWindow),
              xid(config.xidsCritical),
              recovery,
            ],
            'The driver reported XID {{ $labels.hw_gpu_xid }} for GPU {{ $labels.hw_name }} of {{ $labels.instance }}: it is unusable until it is reset or the host is rebooted.',
            'Drain the host, then reset the GPU (nvidia-smi --gpu-reset) or reboot, as the XID requires.',
          ),
          alert(
            'GPUXidWarning',
            'warning',
            |||
              %(workflow)s
              or
              increase(%(application)s[%(window)s]) >= %(risen)g
              or
              (%(application)s >= %(minimum)d unless %(application)s offset %(window)s)
            ||| % {
              workflow: lib.risen(xid(config.xidsWorkflow), config.eventWindow),
              application: xid(config.xidsApplication),
              window: config.eventWindow,
              minimum: config.xidsApplicationMinimum,
              // increase() extrapolates, so that it is seldom a whole number.
              risen: config.xidsApplicationMinimum - 0.5,
            },
            'The driver reported XID {{ $labels.hw_gpu_xid }} for GPU {{ $labels.hw_name }} of {{ $labels.instance }}.',
            'Look the XID up in the runbook; restart the program that used the GPU, or follow the workflow of NVIDIA.',
          ),
          alert(
            'GPUEccUncorrected',
            'critical',
            'sum without (hw_gpu_memory_location) (%s) > 0'
            % gpu('hw_errors_total', ['error_type="uncorrected"', 'hw_gpu_ecc_lifetime="volatile"']),
            'Memory errors of GPU {{ $labels.hw_name }} of {{ $labels.instance }} that ECC could not correct: {{ $value }}.',
            'Restart the programs that used the GPU, since their results may be wrong, and reset the GPU at the next opportunity.',
          ),
          alert(
            'GPURowRemapFailure',
            'critical',
            '%s == 1' % gpu('hw_gpu_row_remaps_failed'),
            'GPU {{ $labels.hw_name }} of {{ $labels.instance }} could not remap a faulty row of its memory.',
            'Take the GPU out of service and have it replaced.',
          ),
          alert(
            'GPURecoveryActionNeeded',
            'critical',
            '%s == 1' % recovery,
            'The driver asks for {{ $labels.hw_gpu_recovery_action }} to recover GPU {{ $labels.hw_name }} of {{ $labels.instance }}.',
            'Drain the GPU and do what the driver asks for.',
          ),
          alert(
            'GPURowRemapPending',
            'warning',
            '%s == 1' % gpu('hw_gpu_row_remaps_pending'),
            'GPU {{ $labels.hw_name }} of {{ $labels.instance }} has a faulty row of memory that is remapped at the next reset.',
            'Reset the GPU (nvidia-smi --gpu-reset) at the next opportunity.',
          ),
          alert(
            'GPUPagesRetired',
            'warning',
            '%s == 1\nor\nsum without (error_type) (%s) >= %d\n'
            % [gpu('hw_gpu_retired_pages_pending'), gpu('hw_gpu_retired_pages_total'), config.retiredPages],
            'GPU {{ $labels.hw_name }} of {{ $labels.instance }} retires faulty pages of its memory.',
            'Reboot the host if pages wait for it; have the GPU replaced if it has retired %d pages.' % config.retiredPages,
          ),
          alert(
            'GPUPredictedFailure',
            'warning',
            '%s == 1' % gpu('hw_status', ['hw_state="predicted_failure"']),
            'GPU {{ $labels.hw_name }} of {{ $labels.instance }} is likely to fail: its memory runs out of spare rows, or has many corrected errors.',
            'Plan the replacement, and run the field diagnostics of NVIDIA.',
          ),
          alert(
            'GPUThermalSlowdown',
            'warning',
            throttled('sw_thermal|hw_thermal'),
            'GPU {{ $labels.hw_name }} of {{ $labels.instance }} is throttled by heat for {{ $value | humanizePercentage }} of the time.',
            'Check the fans, the air flow and the temperature of the room.',
          ),
          alert(
            'GPUPowerBrake',
            'warning',
            throttled('hw_power_brake'),
            'GPU {{ $labels.hw_name }} of {{ $labels.instance }} is throttled by the power brake for {{ $value | humanizePercentage }} of the time.',
            'Check the power supplies of the host and the power cables of the GPU.',
          ),
          alert(
            'GPUNearSlowdownTemperature',
            'warning',
            |||
              max without (hw_limit_type) (%s)
              - max without (hw_sensor_location) (%s)
              < %g
              or
              %s < %g
            ||| % [
              gpu('hw_temperature_limit_celsius', ['hw_limit_type="high.degraded"']),
              gpu('hw_temperature_celsius', ['hw_sensor_location="gpu"']),
              config.temperatureMargin,
              gpu('hw_gpu_temperature_margin_celsius'),
              config.temperatureMargin,
            ],
            'GPU {{ $labels.hw_name }} of {{ $labels.instance }} is {{ $value }} °C below the temperature at which it slows down.',
            'Check the fans, the air flow and the temperature of the room before the GPU slows down.',
          ),
          alert(
            'GPULost',
            'critical',
            '%s == 1' % gpu('hw_gpu_state', ['hw_state="lost"']),
            'GPU {{ $labels.hw_name }} of {{ $labels.instance }} is lost: the driver no longer reaches it.',
            'Drain the host and reboot it; if the GPU stays lost, check its seating and power.',
          ),
          alert(
            'GPUUnresponsive',
            'critical',
            '%s == 1' % gpu('hw_gpu_state', ['hw_state="unresponsive"']),
            'GPU {{ $labels.hw_name }} of {{ $labels.instance }} does not respond: a driver call hangs.',
            'See the kernel log for XIDs; drain the host, and reset the GPU or reboot if it does not come back.',
          ),
          alert(
            'GPUIdleWaste',
            'info',
            |||
              (
                %(memory)s > %(held)d
                or
                max without (k8s_container_name, k8s_namespace_name, k8s_pod_name) (%(allocated)s) > 0
              )
              and
              max without (hw_gpu_task) (rate(%(busy)s[%(window)s])) < %(share)g
            ||| % {
              memory: gpu('hw_gpu_memory_usage_bytes'),
              held: config.idleMemoryBytes,
              allocated: gpu('hw_gpu_allocated'),
              busy: gpu('hw_gpu_active_time_seconds_total'),
              window: config.idleWindow,
              share: config.idleBusyShare,
            },
            'GPU {{ $labels.hw_name }} of {{ $labels.instance }} is reserved and has done nothing for hours.',
            'Free the models of its ComfyUI, or give the GPU to other work.',
          ),
          alert(
            'GPUPcieReplays',
            'warning',
            '60 * rate(%s[%s]) > %g' % [gpu('hw_gpu_pcie_replays_total'), config.linkWindow, config.pcieReplaysPerMinute],
            'GPU {{ $labels.hw_name }} of {{ $labels.instance }} retransmits {{ printf "%.0f" $value }} PCIe packets a minute.',
            'Check the seating of the GPU and its riser; look for PCIe errors in the kernel log.',
          ),
          alert(
            'GPUPcieLinkDegraded',
            'warning',
            |||
              %(width)s < %(widthMax)s
              or
              (
                max without (state) (max_over_time(%(generation)s[%(window)s])) < %(generationMax)s
                and
                max without (hw_gpu_task) (avg_over_time(%(utilization)s[%(window)s])) > %(load)g
              )
            ||| % {
              width: limitOf('hw_gpu_pcie_link_width', 'current'),
              widthMax: limitOf('hw_gpu_pcie_link_width', 'max'),
              generation: gpu('hw_gpu_pcie_link_generation', ['state="current"']),
              generationMax: limitOf('hw_gpu_pcie_link_generation', 'max'),
              utilization: gpu('hw_gpu_utilization_mean_ratio', ['hw_gpu_task="general"']),
              window: config.linkWindow,
              load: config.pcieLoad,
            },
            'The PCIe link of GPU {{ $labels.hw_name }} of {{ $labels.instance }} is narrower or slower than GPU and slot can do.',
            'Check the seating of the GPU, its riser and the settings of the slot.',
          ),
          alert(
            'GPUNvLinkDown',
            'warning',
            '%s == 0\nand\nmax_over_time(%s[%s]) == 1\n' % [gpu('hw_gpu_nvlink_state'), gpu('hw_gpu_nvlink_state'), config.nvlinkMemory],
            'NVLink {{ $labels.hw_gpu_nvlink_id }} of GPU {{ $labels.hw_name }} of {{ $labels.instance }} went down.',
            'Look for XID 74 in the kernel log; reset the GPUs of the link, and check the bridge or the fabric manager.',
          ),
          alert(
            'GPUNvLinkErrors',
            'warning',
            '60 * sum without (error_type) (rate(%s[%s])) > %g' % [
              gpu('hw_gpu_nvlink_errors_total', ['error_type!~"%s"' % config.nvlinkErrorsIgnored]),
              config.linkWindow,
              config.nvlinkErrorsPerMinute,
            ],
            'NVLink {{ $labels.hw_gpu_nvlink_id }} of GPU {{ $labels.hw_name }} of {{ $labels.instance }} has {{ printf "%.0f" $value }} errors a minute.',
            'Check the bridge or cable of the link; a link that keeps failing needs service.',
          ),
        ],
      },
      {
        name: 'gpu-slow',
        interval: config.slowInterval,
        rules: [
          alert(
            'GPUMemoryLeakSuspected',
            'warning',
            // The time until the GPU is full at the rate of the last hours.
            '(%s - %s)\n/ (%s - %s)\n* %d\n' % [
              gpu('hw_gpu_memory_limit_bytes'),
              floor(0),
              floor(0),
              floor(config.leakHours),
              config.leakHours * lib.seconds(config.leakHour),
            ] + std.join('', [
              'and\n%s - %s > %d\n' % [floor(hour - 1), floor(hour), config.leakRiseBytes]
              for hour in std.range(1, config.leakHours)
            ]),
            'The memory that GPU {{ $labels.hw_name }} of {{ $labels.instance }} holds between prompts has risen in each of the last %d hours; at this rate it is full in {{ $value | humanizeDuration }}.' % config.leakHours,
            'Find the process that grows, and restart it at the next opportunity.',
          ),
        ],
      },
    ],
  },
}
