// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo && race

package nvmlreceiver

const raceEnabled = true
