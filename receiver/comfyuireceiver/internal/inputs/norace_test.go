// SPDX-License-Identifier: Apache-2.0

//go:build !race

package inputs

// underRace is true in tests with the race detector.
const underRace = false
