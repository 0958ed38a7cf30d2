// The dashboards of Grafana: copies of ../../grafana/dashboards, made by `make generate`.
{
  grafanaDashboards+:: {
    'gpus.json': import 'gpus.json',
    'gpu.json': import 'gpu.json',
    'comfyui.json': import 'comfyui.json',
    'capacity.json': import 'capacity.json',
  },
}
