// SPDX-License-Identifier: Apache-2.0

// Package nvml is a safe session with NVML, the library of NVIDIA's driver.
//
// NVML itself is not safe to hold: calling a function that the loaded library
// lacks ends the process, a call can hang for ever, the driver can be absent,
// reloaded or upgraded underneath, and a process cannot change its library. So:
//
//   - [Library] looks every function up before its first use; a missing one is
//     an ordinary [Error].
//   - [Session] initialises, tries again while the driver is absent, initialises
//     again after it was reloaded, and enumerates the GPUs.
//   - [GPU] is asked through one worker, so that a call that hangs holds one
//     thread of one GPU, whoever asks.
//   - [Sessions] shares all this between the components of a collector.
//
// The package needs Linux and cgo; elsewhere it is empty.
package nvml // import "github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
