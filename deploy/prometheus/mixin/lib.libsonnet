{
  // A selector of all matchers that are not empty, such as {hw_state="lost"}.
  selector(matchers)::
    local present = [m for m in matchers if m != ''];
    if std.length(present) == 0 then '' else '{' + std.join(',', present) + '}',

  // Whether a counter has risen within a window. Not all counters are initialised to 0:
  // of one whose first sample is 1 increase() sees nothing in Prometheus, and 1 in
  // VictoriaMetrics. Both fire on the second arm.
  risen(counter, window)::
    'increase(%(counter)s[%(window)s]) > 0\nor\n(%(counter)s > 0 unless %(counter)s offset %(window)s)'
    % { counter: counter, window: window },

  // XIDs as the text of a label.
  xids(numbers):: std.join('|', ['%d' % n for n in numbers]),

  // A bucket's bound as label: Prometheus 3 writes 30.0 for a histogram that it scrapes,
  // what is remote-written keeps 30.
  bucket(bound):: if std.member(bound, '.') then 'le="%s"' % bound else 'le=~"%(b)s|%(b)s.0"' % { b: bound },

  // An alert. More than one rule may have the same name with different severities; id is
  // then its entry in _config['for'].
  alert(config, name, severity, expr, summary, action, id=name):: {
    alert: name,
    expr: expr,
    'for': config['for'][id],
    labels: { severity: severity },
    annotations: {
      summary: summary,
      action: action,
      runbook_url: config.runbookURLPattern % name,
    },
  },

  // A duration of one unit, such as 1h, in seconds, and times a number.
  local units = { s: 1, m: 60, h: 3600, d: 86400 },
  seconds(duration):: std.parseInt(duration[:std.length(duration) - 1]) * units[duration[std.length(duration) - 1]],
  times(n, duration)::
    local last = std.length(duration) - 1;
    '%d%s' % [n * std.parseInt(duration[:last]), duration[last]],
}
