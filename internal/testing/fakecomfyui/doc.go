// SPDX-License-Identifier: Apache-2.0

// Package fakecomfyui is a ComfyUI server for tests and for `make run` without a GPU.
// It implements the protocols of ComfyUI 0.3.64 and 0.33.0 ([Version]) as recordings of real
// ones show them; a test plays every recording against it. A [Work] does what its nodes do on
// a GPU.
package fakecomfyui
