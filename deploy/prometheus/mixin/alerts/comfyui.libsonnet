local lib = import '../lib.libsonnet';

{
  local config = $._config,
  local comfyui(name, matchers=[]) = name + lib.selector(matchers + [config.comfyuiSelector]),
  local alert = function(name, severity, expr, summary, action, id=name) lib.alert(config, name, severity, expr, summary, action, id),
  local host = config.hostLabels,

  local prompts(outcomes) = comfyui('comfyui_prompts_total', ['comfyui_prompt_outcome=~"%s"' % outcomes]),

  // The mean execution of a class within the last day.
  local executions(part) =
    'sum by (%s, comfyui_task_class) (increase(%s[%s]))'
    % [host, comfyui('comfyui_execution_duration_seconds_' + part), config.stalledMemory],

  // The share of prompts that succeeded and took longer than the objective. Prompts are
  // spans from the request to the end: wait and execution.
  local slow(window) =
    |||
      1 - sum by (%(host)s) (rate(%(bucket)s[%(window)s]))
      / sum by (%(host)s) (rate(%(count)s[%(window)s]))
    ||| % {
      host: host,
      window: window,
      bucket: comfyui('comfyui_span_duration_seconds_bucket', [
        'span_name="comfyui.prompt"',
        'comfyui_prompt_outcome="success"',
        lib.bucket(config.latencyBucket),
      ]),
      count: comfyui('comfyui_span_duration_seconds_count', ['span_name="comfyui.prompt"', 'comfyui_prompt_outcome="success"']),
    },
  local burns(burn) =
    |||
      %(long)s> %(share)g
      and
      %(short)s> %(share)g
      and
      sum by (%(host)s) (increase(%(count)s[%(window)s])) >= %(minimum)d
    ||| % {
      long: slow(burn.long),
      short: slow(burn.short),
      share: burn.rate * (1 - config.latencyObjective),
      host: host,
      count: comfyui('comfyui_span_duration_seconds_count', ['span_name="comfyui.prompt"', 'comfyui_prompt_outcome="success"']),
      window: burn.long,
      minimum: config.latencyPromptsMinimum,
    },
  local latency(severity, id, burn) = alert(
    'ComfyUILatencySLO',
    severity,
    burns(burn),
    '{{ $value | humanizePercentage }} of the prompts of {{ $labels.instance }} took longer than %s s, wait included; the objective allows %g%%.' % [config.latencyBucket, 100 * (1 - config.latencyObjective)],
    'See whether the wait or the execution has grown; add capacity, or hold large prompts back.',
    id,
  ),

  prometheusAlerts+:: {
    groups+: [
      {
        name: 'comfyui',
        interval: config.interval,
        rules: [
          alert(
            'ComfyUIOutOfMemory',
            'warning',
            'sum by (%s, comfyui_model) (\n  %s\n)\n' % [
              host,
              std.strReplace(lib.risen(comfyui('comfyui_prompts_total', ['error_type="out_of_memory"']), config.eventWindow), '\n', '\n  '),
            ],
            'The GPU of {{ $labels.instance }} was out of memory; failed prompts with the model {{ $labels.comfyui_model }} within %s: {{ printf "%%.0f" $value }}.' % config.eventWindow,
            'Compare what such prompts need with the memory that is free; reduce the size, or free the models of other servers on this GPU.',
          ),
          alert(
            'ComfyUIModelLoadingHeavy',
            'warning',
            'sum by (%(host)s) (rate(%(loading)s[%(window)s]))\n/ (sum by (%(host)s) (rate(%(execution)s[%(window)s])) > 0)\n> %(share)g\n' % {
              host: host,
              loading: comfyui('comfyui_loading_time_seconds_total'),
              execution: comfyui('comfyui_execution_duration_seconds_sum'),
              window: config.loadingWindow,
              share: config.loadingShare,
            },
            '{{ $labels.instance }} spends {{ $value | humanizePercentage }} of its execution time on loading models.',
            'See which models take turns; give each model a server of its own, or more memory to keep them.',
          ),
          alert(
            'ComfyUIQueueGrowing',
            'warning',
            '%(wait)s > %(seconds)g\nand\nderiv(%(wait)s[%(window)s]) > 0\n' % {
              wait: comfyui('comfyui_queue_oldest_wait_seconds'),
              seconds: config.queueWaitSeconds,
              window: config.queueWindow,
            },
            'The oldest prompt in the queue of {{ $labels.instance }} has waited for {{ $value | humanizeDuration }}, and the wait grows.',
            'See whether the load has grown or the executions have become slower; add capacity, or hold back work that can wait.',
          ),
          alert(
            'ComfyUIStalled',
            'critical',
            |||
              (
                %(age)s
                > on (%(host)s, comfyui_task_class) %(times)g * %(sum)s
                / on (%(host)s, comfyui_task_class) (%(count)s > 0)
                or
                (%(age)s > 0 and resets(%(age)s[%(window)s]) == 0)
                unless on (%(host)s, comfyui_task_class) (%(count)s > 0)
              )
              and on (%(host)s)
              %(pending)s > 0
            ||| % {
              host: host,
              age: comfyui('comfyui_progress_age_seconds'),
              times: config.stalledTimes,
              sum: executions('sum'),
              count: executions('count'),
              window: config.stalledWindow,
              pending: comfyui('comfyui_queue_length', ['state="pending"']),
            },
            '{{ $labels.instance }} is stalled: its prompt of class {{ $labels.comfyui_task_class }} has not progressed for {{ $value | humanizeDuration }}, and others wait.',
            'Interrupt the prompt; if that has no effect, restart ComfyUI, and check that its GPU is healthy.',
          ),
          alert(
            'ComfyUIDown',
            'critical',
            '%s == 0' % comfyui('comfyui_up'),
            'ComfyUI at {{ $labels.instance }} does not respond.',
            'Restart ComfyUI, and see its log for why it ended or hangs.',
          ),
          alert(
            'ComfyUIErrorRate',
            'warning',
            |||
              sum by (%(host)s) (rate(%(failed)s[%(window)s]))
              / sum by (%(host)s) (rate(%(counted)s[%(window)s])) > %(share)g
              and
              sum by (%(host)s) (increase(%(counted)s[%(window)s])) >= %(minimum)d
            ||| % {
              host: host,
              failed: prompts(config.outcomesFailed),
              counted: prompts(config.outcomesCounted),
              window: config.errorWindow,
              share: config.errorShare,
              minimum: config.errorPromptsMinimum,
            },
            '{{ $value | humanizePercentage }} of the prompts of {{ $labels.instance }} fail.',
            'See the log records of the failed prompts: they name the node and the exception.',
          ),
          latency('critical', 'ComfyUILatencySLOCritical', config.latencyBurnCritical),
          latency('warning', 'ComfyUILatencySLOWarning', config.latencyBurnWarning),
        ],
      },
    ],
  },
}
