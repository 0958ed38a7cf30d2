// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvml

import gonvml "github.com/NVIDIA/go-nvml/pkg/nvml"

// GPMMetric names a profiling counter (nvmlGpmMetricId_t).
type GPMMetric = gonvml.GpmMetricId

// The profiling counters that are asked for: shares in percent, rates in MiB/s.
const (
	GPMSMActive    = gonvml.GPM_METRIC_SM_UTIL
	GPMSMOccupancy = gonvml.GPM_METRIC_SM_OCCUPANCY
	GPMInteger     = gonvml.GPM_METRIC_INTEGER_UTIL
	GPMTensor      = gonvml.GPM_METRIC_ANY_TENSOR_UTIL
	GPMDRAM        = gonvml.GPM_METRIC_DRAM_BW_UTIL
	GPMFP64        = gonvml.GPM_METRIC_FP64_UTIL
	GPMFP32        = gonvml.GPM_METRIC_FP32_UTIL
	GPMFP16        = gonvml.GPM_METRIC_FP16_UTIL
	GPMGraphics    = gonvml.GPM_METRIC_GRAPHICS_UTIL
	GPMPCIeTx      = gonvml.GPM_METRIC_PCIE_TX_PER_SEC
	GPMPCIeRx      = gonvml.GPM_METRIC_PCIE_RX_PER_SEC
	GPMNVLinkTx    = gonvml.GPM_METRIC_NVLINK_TOTAL_TX_PER_SEC
	GPMNVLinkRx    = gonvml.GPM_METRIC_NVLINK_TOTAL_RX_PER_SEC
)

// gpmFunctions are all functions that profiling calls.
var gpmFunctions = [...]string{
	"nvmlGpmQueryDeviceSupport", "nvmlGpmSampleAlloc", "nvmlGpmSampleFree", "nvmlGpmSampleGet", "nvmlGpmMigSampleGet", "nvmlGpmMetricsGet",
}

// GPM holds the last two profiling samples of a GPU or of a GPU instance of it.
// Its figures are averages over the time between the two. Free it when done.
type GPM struct {
	lib         *Library
	older, last gonvml.GpmSample
	samples     int
	request     gonvml.GpmMetricsGetType
}

// NewGPM allocates the samples; not supported before Hopper
// (nvmlGpmQueryDeviceSupport, nvmlGpmSampleAlloc).
func (d Device) NewGPM() (*GPM, error) {
	if err := d.lib.need(gpmFunctions[:]...); err != nil {
		return nil, err
	}
	support, err := get(d, "nvmlGpmQueryDeviceSupport", gonvml.Device.GpmQueryDeviceSupport)
	if err != nil {
		return nil, err
	}
	if support.IsSupportedDevice == 0 {
		return nil, result("nvmlGpmQueryDeviceSupport", gonvml.ERROR_NOT_SUPPORTED)
	}
	g := &GPM{lib: d.lib}
	for _, sample := range []*gonvml.GpmSample{&g.older, &g.last} {
		if *sample, err = ask(d.lib, "nvmlGpmSampleAlloc", d.lib.api, gonvml.Interface.GpmSampleAlloc); err != nil {
			g.Free()
			return nil, err
		}
	}
	return g, nil
}

// Free releases the samples (nvmlGpmSampleFree).
func (g *GPM) Free() {
	for _, sample := range []gonvml.GpmSample{g.older, g.last} {
		if sample != nil {
			_ = sample.Free()
		}
	}
	g.older, g.last, g.samples = nil, nil, 0
}

// Sample reads a sample of the GPU, or of a GPU instance of a GPU with MIG enabled
// (nvmlGpmSampleGet, nvmlGpmMigSampleGet).
func (g *GPM) Sample(gpu Device, instance *MIGInstance) error {
	var err error
	if instance == nil {
		err = result("nvmlGpmSampleGet", g.older.Get(gpu.handle))
	} else {
		err = result("nvmlGpmMigSampleGet", g.older.MigGet(gpu.handle, int(instance.GPUInstance)))
	}
	if err == nil {
		g.older, g.last = g.last, g.older
		g.samples = min(g.samples+1, 2)
	}
	return err
}

// GPMValue is one figure; OK is false where the GPU does not have it.
type GPMValue struct {
	Value float64
	OK    bool
}

// Values appends the figures for the time between the last two samples; none
// before there are two (nvmlGpmMetricsGet).
func (g *GPM) Values(which []GPMMetric, into []GPMValue) ([]GPMValue, error) {
	if g.samples < 2 {
		return into, nil
	}
	g.request.NumMetrics = uint32(len(which))
	g.request.Sample1, g.request.Sample2 = g.older, g.last
	for i, id := range which {
		g.request.Metrics[i].MetricId = uint32(id)
	}
	if err := result("nvmlGpmMetricsGet", g.lib.api.GpmMetricsGet(&g.request)); err != nil {
		return into, err
	}
	for i := range which {
		m := &g.request.Metrics[i]
		into = append(into, GPMValue{Value: m.Value, OK: gonvml.Return(m.NvmlReturn) == gonvml.SUCCESS})
	}
	return into, nil
}
