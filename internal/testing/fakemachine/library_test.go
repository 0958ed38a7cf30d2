// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package fakemachine

import (
	"testing"
	"time"

	gonvml "github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
)

var library *Library

func TestMain(m *testing.M) {
	library = Setup(fakenvml.Current)
	goleak.VerifyTestMain(m)
}

// open initialises NVML through go-nvml, as any program would.
func open(t *testing.T) gonvml.Interface {
	t.Helper()
	lib := gonvml.New(gonvml.WithLibraryPath(library.Path))
	require.Equal(t, gonvml.SUCCESS, lib.Init())
	t.Cleanup(func() { assert.Equal(t, gonvml.SUCCESS, lib.Shutdown()) })
	return lib
}

func device(t *testing.T, lib gonvml.Interface, index int) gonvml.Device {
	t.Helper()
	d, code := lib.DeviceGetHandleByIndex(index)
	require.Equal(t, gonvml.SUCCESS, code)
	return d
}

func TestEventsReachTheSetThatRegisteredForThem(t *testing.T) {
	machine, _ := library.Machine(t, "h100", "l40s")
	lib := open(t)
	set, code := lib.EventSetCreate()
	require.Equal(t, gonvml.SUCCESS, code)
	defer func() { assert.Equal(t, gonvml.SUCCESS, set.Free()) }()
	require.Equal(t, gonvml.SUCCESS, device(t, lib, 1).RegisterEvents(gonvml.EventTypeXidCriticalError, set))
	_, code = set.Wait(1)
	assert.Equal(t, gonvml.ERROR_TIMEOUT, code)
	machine.Event(0, fakenvml.EventXID, 31) // nobody registered for this GPU
	machine.Event(1, fakenvml.EventXID, 79)
	event, code := set.Wait(5000)
	require.Equal(t, gonvml.SUCCESS, code)
	assert.EqualValues(t, 79, event.EventData)
	assert.EqualValues(t, gonvml.EventTypeXidCriticalError, event.EventType)
	_, code = set.Wait(1)
	assert.Equal(t, gonvml.ERROR_TIMEOUT, code)
}

func TestMIGDevicesHaveTheirOwnMemoryAndTheParentNoUtilization(t *testing.T) {
	library.Machine(t, "h100-mig")
	lib := open(t)
	parent := device(t, lib, 0)
	_, code := parent.GetUtilizationRates()
	assert.Equal(t, gonvml.ERROR_NOT_SUPPORTED, code)
	count, code := parent.GetMaxMigDeviceCount()
	require.Equal(t, gonvml.SUCCESS, code)
	var found []uint64
	for i := range count {
		mig, code := parent.GetMigDeviceHandleByIndex(i)
		if code == gonvml.ERROR_NOT_FOUND {
			continue
		}
		require.Equal(t, gonvml.SUCCESS, code)
		m, code := mig.GetMemoryInfo()
		require.Equal(t, gonvml.SUCCESS, code)
		found = append(found, m.Total>>20)
		uuid, code := mig.GetUUID()
		require.Equal(t, gonvml.SUCCESS, code)
		assert.Contains(t, uuid, "MIG-")
	}
	assert.Equal(t, []uint64{40448, 20096, 9984, 9984}, found)
}

func TestEnergyIsTheIntegralOfPower(t *testing.T) {
	_, gpus := library.Machine(t, "h100")
	gpus[0].Step("power", 500_000) // 500 W
	lib := open(t)
	d := device(t, lib, 0)
	begin := time.Now()
	first, code := d.GetTotalEnergyConsumption()
	require.Equal(t, gonvml.SUCCESS, code)
	require.Eventually(t, func() bool { return time.Since(begin) > 200*time.Millisecond }, 5*time.Second, time.Millisecond)
	second, _ := d.GetTotalEnergyConsumption()
	elapsed := time.Since(begin).Seconds()
	assert.InDelta(t, 500_000*elapsed, float64(second-first), 500_000*0.05)
}

func TestCodesDelaysAndLosses(t *testing.T) {
	machine, gpus := library.Machine(t, "h100", "h100")
	lib := open(t)
	d := device(t, lib, 0)
	gpus[0].SetReturn("nvmlDeviceGetPowerUsage", 4711)
	_, code := d.GetPowerUsage()
	assert.Equal(t, gonvml.Return(4711), code, "any code, known or not")
	gpus[0].SetReturn("nvmlDeviceGetPowerUsage", fakenvml.Success)
	gpus[0].SetDelay("nvmlDeviceGetPowerUsage", 30*time.Millisecond)
	begin := time.Now()
	_, code = d.GetPowerUsage()
	assert.Equal(t, gonvml.SUCCESS, code)
	assert.GreaterOrEqual(t, time.Since(begin), 30*time.Millisecond)
	gpus[0].SetLost(true)
	_, code = d.GetTemperature(gonvml.TEMPERATURE_GPU)
	assert.Equal(t, gonvml.ERROR_GPU_IS_LOST, code)
	_, code = device(t, lib, 1).GetTemperature(gonvml.TEMPERATURE_GPU)
	assert.Equal(t, gonvml.SUCCESS, code)
	machine.UpgradeDriver()
	_, code = lib.DeviceGetCount()
	assert.Equal(t, gonvml.ERROR_LIB_RM_VERSION_MISMATCH, code)
	machine.LoadDriver()
	_, code = lib.DeviceGetCount()
	assert.Equal(t, gonvml.ERROR_UNINITIALIZED, code, "handles of before the reload are stale")
}

func TestMemoryOfBothVersionsAddsUp(t *testing.T) {
	library.Machine(t, "rtx-4080-super")
	d := device(t, open(t), 0)
	v2, code := d.GetMemoryInfo_v2()
	require.Equal(t, gonvml.SUCCESS, code)
	assert.Equal(t, v2.Total, v2.Used+v2.Free+v2.Reserved)
	v1, code := d.GetMemoryInfo()
	require.Equal(t, gonvml.SUCCESS, code)
	assert.Equal(t, v2.Used+v2.Reserved, v1.Used)
}

func TestUnknownNamesAreRefusedLoudly(t *testing.T) {
	_, gpus := library.Machine(t, "h100")
	assert.Panics(t, func() { gpus[0].Set("no_such_value", 1) })
	assert.Panics(t, func() { gpus[0].SetHang("nvmlNoSuchFunction", true) })
	_, err := fakenvml.LoadProfile("gtx-480")
	assert.ErrorContains(t, err, "it is none of")
}
