// SPDX-License-Identifier: Apache-2.0

// Package memory works out, from the answers of GET /system_stats, what memory prompts
// need: what tensors used, what PyTorch's allocator reserved, and what lies outside of it.
// It has no clock and makes no requests. Sizes are in bytes.
package memory
