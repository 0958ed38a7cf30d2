// SPDX-License-Identifier: Apache-2.0

//go:build !linux || !cgo

package gpuadvisorconnector

// followMemory does nothing: there are no samplers without NVML.
func (*advisor) followMemory() (cancel func()) { return func() {} }
