// SPDX-License-Identifier: Apache-2.0

//go:build race

package join

// raced is true in tests with the race detector, which is ten times as slow: the benchmark of
// energy then runs with few spans, and make unit runs it whole without the detector.
const raced = true
