// SPDX-License-Identifier: Apache-2.0

// Package gputimeline keeps the recent samples of GPUs, as the nvml receiver emits them,
// and answers what a quantity was in an interval of time.
package gputimeline
