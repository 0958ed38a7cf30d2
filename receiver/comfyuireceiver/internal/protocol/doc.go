// SPDX-License-Identifier: Apache-2.0

// Package protocol reads ComfyUI's messages. It is lenient: what it does not know
// is left alone, and what is not as expected is empty. The forms are those of
// ComfyUI 0.3.64 as recorded on the wire, and of older servers that lack
// progress_state.
package protocol
