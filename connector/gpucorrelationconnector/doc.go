// SPDX-License-Identifier: Apache-2.0

// Package gpucorrelationconnector puts the figures of a GPU onto the spans of the
// requests that used it. It takes the samples of a fast nvml receiver, holds each
// finished trace until the samples of its GPUs cover its end, writes peak memory,
// utilisation, energy, throttled time and XIDs onto its spans, and writes trace and
// span ids onto the log records of the GPUs.
package gpucorrelationconnector
