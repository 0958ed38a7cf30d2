// SPDX-License-Identifier: Apache-2.0

//go:generate mdatagen metadata.yaml

// Package comfyuireceiver follows the prompts of a ComfyUI server, as a reverse proxy in
// front of it or by polling its queue and history. README.md describes a prompt's way
// through it.
package comfyuireceiver
