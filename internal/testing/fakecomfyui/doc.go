// SPDX-License-Identifier: Apache-2.0

// Package fakecomfyui is a ComfyUI server for tests and for `make run` without a GPU.
// It implements the protocol of ComfyUI 0.3.64 as recordings of a real one show it; a
// test plays every recording against it. A [Work] does what its nodes do on a GPU.
package fakecomfyui
