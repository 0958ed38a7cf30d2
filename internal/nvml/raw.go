// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvml

/*
#cgo LDFLAGS: -ldl
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>

typedef struct { unsigned int pid; unsigned long long memory; unsigned int gpuInstance, computeInstance; } runningProcess;
typedef struct { unsigned long long at, value; } bufferedSample;
typedef struct { unsigned int pid; unsigned long long at; unsigned int sm, mem, enc, dec; } processUse;

static void *find(const char *name) { return dlsym(RTLD_DEFAULT, name); }

static int listProcesses(void *function, uintptr_t device, unsigned int *count, runningProcess *out) {
	return ((int (*)(void *, unsigned int *, runningProcess *))function)((void *)device, count, out);
}
static int listSamples(void *function, uintptr_t device, int type, unsigned long long since, int *kind, unsigned int *count, bufferedSample *out) {
	return ((int (*)(void *, int, unsigned long long, int *, unsigned int *, bufferedSample *))function)((void *)device, type, since, kind, count, out);
}
static int listUses(void *function, uintptr_t device, processUse *out, unsigned int *count, unsigned long long since) {
	return ((int (*)(void *, processUse *, unsigned int *, unsigned long long))function)((void *)device, out, count, since);
}
*/
import "C"

import (
	"encoding/binary"
	"reflect"
	"unsafe"

	gonvml "github.com/NVIDIA/go-nvml/pkg/nvml"
)

// This file calls the functions that return lists with buffers of its own: go-nvml first
// asks for the size, so that each list costs two calls or more, and a list of processes
// holds the driver's lock for up to 4.5 ms.

const (
	// rawSamples and rawProcesses are the sizes of the buffers; go-nvml reads longer lists.
	rawSamples   = 256
	rawProcesses = 128
)

// symbol is a function of the loaded library; nil if it has none of that name.
func (l *Library) symbol(name string) unsafe.Pointer {
	l.mu.RLock()
	p, known := l.addresses[name]
	l.mu.RUnlock()
	if known {
		return p
	}
	if l.Has(name) {
		text := C.CString(name)
		p = C.find(text)
		C.free(unsafe.Pointer(text))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.addresses[name] = p
	return p
}

// address is the handle as the library knows it, which need not be an address; 0 if go-nvml
// wraps it in another type than the one that holds the pointer.
func (d Device) address() C.uintptr_t {
	v := reflect.ValueOf(d.handle)
	if v.Kind() != reflect.Struct || v.NumField() != 1 || v.Field(0).Kind() != reflect.Pointer {
		return 0
	}
	return C.uintptr_t(v.Field(0).Pointer())
}

// rawRunning lists the processes by a function of the third version, whose entries have
// MIG numbers; ok is false if go-nvml has to be asked.
func (d Device) rawRunning(function string) (list []gonvml.ProcessInfo, err error, ok bool) {
	f, device := d.lib.symbol(function), d.address()
	if f == nil || device == 0 {
		return nil, nil, false
	}
	var buffer [rawProcesses]C.runningProcess
	count := C.uint(len(buffer))
	d.calls.begin(function)
	code := gonvml.Return(C.listProcesses(f, device, &count, &buffer[0]))
	d.calls.end()
	if code == gonvml.ERROR_INSUFFICIENT_SIZE {
		return nil, nil, false
	}
	if code != gonvml.SUCCESS {
		return nil, result(function, code), true
	}
	list = make([]gonvml.ProcessInfo, min(int(count), len(buffer)))
	for i := range list {
		p := &buffer[i]
		list[i] = gonvml.ProcessInfo{Pid: uint32(p.pid), UsedGpuMemory: uint64(p.memory), GpuInstanceId: uint32(p.gpuInstance), ComputeInstanceId: uint32(p.computeInstance)}
	}
	return list, nil, true
}

// rawSamples appends the driver's samples since a time; ok is false if go-nvml has to be
// asked.
func (d Device) rawSamples(engine SampledEngine, since uint64, into []UtilizationSample) (out []UtilizationSample, err error, ok bool) {
	const function = "nvmlDeviceGetSamples"
	f, device := d.lib.symbol(function), d.address()
	if f == nil || device == 0 {
		return into, nil, false
	}
	var buffer [rawSamples]C.bufferedSample
	count, kind := C.uint(len(buffer)), C.int(0)
	d.calls.begin(function)
	code := gonvml.Return(C.listSamples(f, device, C.int(engine), C.ulonglong(since), &kind, &count, &buffer[0]))
	d.calls.end()
	switch code {
	case gonvml.ERROR_NOT_FOUND: // nothing new
		return into, nil, true
	case gonvml.ERROR_INSUFFICIENT_SIZE, gonvml.ERROR_INVALID_ARGUMENT:
		return into, nil, false // the buffer is too small for this driver
	case gonvml.SUCCESS:
	default:
		return into, result(function, code), true
	}
	for i := range min(int(count), len(buffer)) {
		v := FieldValue{ValueType: uint32(kind)}
		binary.NativeEndian.PutUint64(v.Value[:], uint64(buffer[i].value))
		into = appendSample(into, &v, uint64(buffer[i].at), since)
	}
	return into, nil, true
}

// rawUses appends what the processes did since a time; ok is false if go-nvml has to be
// asked.
func (d Device) rawUses(since uint64, into []ProcessUtilization) (out []ProcessUtilization, err error, ok bool) {
	const function = "nvmlDeviceGetProcessUtilization"
	f, device := d.lib.symbol(function), d.address()
	if f == nil || device == 0 {
		return into, nil, false
	}
	var buffer [rawProcesses]C.processUse
	count := C.uint(len(buffer))
	d.calls.begin(function)
	code := gonvml.Return(C.listUses(f, device, &buffer[0], &count, C.ulonglong(since)))
	d.calls.end()
	switch code {
	case gonvml.ERROR_NOT_FOUND:
		return into, nil, true
	case gonvml.ERROR_INSUFFICIENT_SIZE:
		return into, nil, false
	case gonvml.SUCCESS:
	default:
		return into, result(function, code), true
	}
	for i := range min(int(count), len(buffer)) {
		s := &buffer[i]
		if uint32(s.pid) != 0 && uint64(s.at) > since {
			into = append(into, ProcessUtilization{
				PID: uint32(s.pid), At: uint64(s.at), SM: uint32(s.sm), Memory: uint32(s.mem), Enc: uint32(s.enc), Decoder: uint32(s.dec),
			})
		}
	}
	return into, nil, true
}

// appendSample appends a sample if it is new and valid.
func appendSample(into []UtilizationSample, v *FieldValue, at, since uint64) []UtilizationSample {
	if n, _ := FieldNumber(v); at > since && n >= 0 && n <= 100 {
		into = append(into, UtilizationSample{At: at, Percent: n})
	}
	return into
}
