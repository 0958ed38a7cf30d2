{
  _config+:: {
    // Label matchers that are added to each selector, such as 'job="otelcol-gpu"', and for
    // what the comfyui receiver emits 'job="comfyui"'. Empty matches every series of a name.
    gpuSelector: '',
    comfyuiSelector: '',
    // For the collector's own telemetry, which is scraped from port 8888.
    telemetrySelector: '',

    // What the names of the collector's own counters and durations end in: '_total' and
    // '_seconds' where its service::telemetry has without_type_suffix: false.
    telemetryCounterSuffix: '',
    telemetryDurationSuffix: '',

    // The labels that identify a host, in alerts that aggregate: 'cluster, instance' where
    // hosts of several clusters have the same names.
    hostLabels: 'instance',

    runbookURLPattern: 'https://github.com/otelcol-gpu/otelcol-gpu/blob/main/docs/runbooks/%s.md',

    // How long an expression must hold before its alert fires.
    'for': {
      GPUMemoryUsageHigh: '2m',
      GPUMemoryUsageCritical: '1m',
      GPUMemoryHeadroomShort: '5m',
      GPUMemoryLeakSuspected: '0s',
      GPUXidCritical: '0s',
      GPUXidWarning: '0s',
      GPUEccUncorrected: '0s',
      GPURowRemapFailure: '0s',
      GPURecoveryActionNeeded: '0s',
      GPURowRemapPending: '0s',
      GPUPagesRetired: '0s',
      GPUPredictedFailure: '0s',
      GPUThermalSlowdown: '5m',
      GPUPowerBrake: '5m',
      GPUNearSlowdownTemperature: '10m',
      GPULost: '1m',
      GPUUnresponsive: '1m',
      GPUIdleWaste: '2h',
      GPUPcieReplays: '15m',
      GPUPcieLinkDegraded: '15m',
      GPUNvLinkDown: '15m',
      GPUNvLinkErrors: '15m',
      GPUTelemetryMissing: '2m',
      GPUTelemetrySlow: '10m',
      CollectorExportFailing: '10m',
      CollectorBacklogGrowing: '10m',
      CollectorDataDropped: '10m',
      Watchdog: '0s',
      ComfyUIOutOfMemory: '0s',
      ComfyUIModelLoadingHeavy: '15m',
      ComfyUIQueueGrowing: '5m',
      ComfyUIStalled: '5m',
      ComfyUIDown: '1m',
      ComfyUIErrorRate: '10m',
      ComfyUILatencySLOCritical: '2m',
      ComfyUILatencySLOWarning: '15m',
    },

    // How often the rules are evaluated. Those that look back for hours need it less often.
    interval: '15s',
    slowInterval: '5m',

    // Alerts on an event fire for this long after it.
    eventWindow: '1h',

    // Memory in use, less what Dynamic VRAM could evict, as a share of the GPU's memory.
    memoryHigh: 0.85,
    memoryCritical: 0.95,

    // A leak: the lowest memory use within leakFloorWindow has risen by more than
    // leakRiseBytes in each of the last leakHours hours.
    leakHours: 6,
    leakHour: '1h',
    leakFloorWindow: '30m',
    leakFloorStep: '1m',
    leakRiseBytes: 16777216,

    // XIDs by what they ask for. A test compares them with the receiver's catalogue.
    xidsCritical: [46, 62, 64, 79, 95, 109, 110, 119, 120, 136, 140, 143, 151, 155, 156, 158],
    xidsWorkflow: [48, 54, 74, 144, 145, 146, 147, 148, 149, 150],
    xidsApplication: [
      8, 11, 13, 25, 31, 32, 39, 40, 41, 60, 68, 69, 70, 71, 72, 75, 76, 77, 80, 82, 83, 84, 85, 86, 88, 89, 94,
      96, 97, 98, 99, 100, 101, 102, 103, 104, 105, 126, 127, 128, 129, 130, 131, 132, 133, 134, 135, 139,
    ],
    // One XID of the application tier is what a crashing program leaves behind; this many
    // of one kind on one GPU within eventWindow are worth a look.
    xidsApplicationMinimum: 3,

    // NVIDIA replaces GPUs with that many retired pages.
    retiredPages: 60,

    throttleWindow: '5m',
    throttleShare: 0.05,
    temperatureMargin: 3,

    // A GPU that holds more memory than this, or is allocated to a container, and is busy
    // for less than idleBusyShare of idleWindow.
    idleMemoryBytes: 1073741824,
    idleBusyShare: 0.01,
    idleWindow: '15m',

    linkWindow: '15m',
    pcieReplaysPerMinute: 8,
    pcieLoad: 0.5,
    nvlinkMemory: '1d',
    nvlinkErrorsPerMinute: 10,
    // Errors that forward error correction repairs are normal on NVLink 5.
    nvlinkErrorsIgnored: 'effective|symbol',

    // A host counts as missing if it wrote nothing for telemetryFresh, but did within
    // telemetryMemory. A host that was removed on purpose is silenced for that long.
    telemetryFresh: '1m',
    telemetryMemory: '1d',
    telemetryWindow: '5m',
    // Readings of a GPU that took longer than this, which is half of card_timeout and must
    // be a bucket of otelcol_receiver_nvml_card_duration.
    readingSlowBucket: '0.5',
    readingsSlowPerMinute: 1,
    readingsMissedShare: 0.1,

    exportWindow: '5m',
    backlogShare: 0.5,
    backlogWindow: '15m',
    // Counters of what was dropped, without telemetryCounterSuffix.
    dropCounters: [
      { name: 'otelcol_exporter_enqueue_failed_metric_points', matcher: '' },
      { name: 'otelcol_exporter_enqueue_failed_spans', matcher: '' },
      { name: 'otelcol_exporter_enqueue_failed_log_records', matcher: '' },
      { name: 'otelcol_exporter_send_failed_metric_points', matcher: 'exporter="otlp_http/queue"' },
      { name: 'otelcol_exporter_send_failed_spans', matcher: 'exporter=~"otlp_grpc.*"' },
      { name: 'otelcol_exporter_send_failed_log_records', matcher: 'exporter=~"otlp_http/logs.*"' },
      { name: 'otelcol_extension_queue_check_damaged', matcher: '' },
      { name: 'otelcol_receiver_nvml_events_dropped', matcher: '' },
      { name: 'otelcol_receiver_nvml_processes_dropped', matcher: '' },
      { name: 'otelcol_receiver_comfyui_dropped', matcher: '' },
      { name: 'otelcol_receiver_comfyui_traces_lost', matcher: '' },
      { name: 'otelcol_receiver_comfyui_beyond_limit', matcher: '' },
      { name: 'otelcol_receiver_comfyui_prompts_unfollowed', matcher: 'reason="limit"' },
      { name: 'otelcol_connector_gpucorrelation_spans', matcher: 'outcome="dropped"' },
      { name: 'otelcol_connector_gpucorrelation_records', matcher: 'outcome="dropped"' },
      { name: 'otelcol_connector_gpucorrelation_samples', matcher: 'outcome="dropped"' },
      { name: 'otelcol_connector_gpucorrelation_forgotten', matcher: '' },
    ],

    loadingWindow: '15m',
    loadingShare: 0.3,

    queueWaitSeconds: 60,
    queueWindow: '10m',

    // A prompt is stalled after stalledTimes the mean execution of its class in
    // stalledMemory; where there is none, as soon as nothing progresses for stalledWindow.
    stalledTimes: 3,
    stalledMemory: '1d',
    stalledWindow: '1m',

    // Clients' mistakes are no errors of the service: only these outcomes count.
    outcomesFailed: 'error|lost',
    outcomesCounted: 'success|error|lost',
    errorWindow: '10m',
    errorShare: 0.05,
    errorPromptsMinimum: 10,

    // The objective of latency: this share of prompts, wait and execution together, within
    // a bucket of the histogram comfyui_span_duration_seconds (config/comfyui.yaml).
    latencyObjective: 0.95,
    latencyBucket: '30',
    latencyPromptsMinimum: 10,
    // How many times faster than allowed the error budget is used up, in both windows.
    latencyBurnCritical: { rate: 14.4, short: '5m', long: '1h' },
    latencyBurnWarning: { rate: 6, short: '30m', long: '6h' },

    // What a kWh and a GPU for an hour cost, for the recording rules of costs.
    pricePerKWh: '0.30',
    pricePerGPUHour: '0.80',
  },
}
