// SPDX-License-Identifier: Apache-2.0

//go:build !linux || !cgo

package nvmlreceiver

// setUpLibrary is called by the generated TestMain.
func setUpLibrary() {}
