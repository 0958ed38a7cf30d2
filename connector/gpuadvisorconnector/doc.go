// SPDX-License-Identifier: Apache-2.0

// Package gpuadvisorconnector keeps what GPUs and ComfyUI servers do now, and the last
// prompts with their GPU bills, and serves a page and JSON that answer: is something broken
// and what to do, which GPU is full and with what, why is this image slow.
package gpuadvisorconnector
