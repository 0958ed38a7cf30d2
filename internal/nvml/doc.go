// SPDX-License-Identifier: Apache-2.0

// Package nvml is a safe session with NVML, the library of the NVIDIA driver.
//
// NVML itself is not safe: calling a function that the loaded library
// lacks ends the process, a call can hang for ever, the driver can be absent,
// reloaded or upgraded while the process runs, and a process cannot reload its
// library. Therefore:
//
//   - [Library] looks every function up before its first use; a missing one is
//     an ordinary [Error].
//   - [Session] initialises NVML, retries while the driver is absent, initialises
//     again after a reload, and enumerates the GPUs.
//   - [GPU] is read through one worker, so that a call that hangs holds one
//     thread of one GPU, however many components read it.
//   - [Sessions] shares all this between the components of a collector.
//
// The package needs Linux and cgo; elsewhere it is empty.
package nvml // import "github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
