(import 'config.libsonnet') +
(import 'alerts/gpu.libsonnet') +
(import 'alerts/collector.libsonnet') +
(import 'alerts/comfyui.libsonnet') +
(import 'rules/rules.libsonnet') +
(import 'dashboards/dashboards.libsonnet')
