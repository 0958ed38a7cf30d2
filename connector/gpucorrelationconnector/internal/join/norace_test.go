// SPDX-License-Identifier: Apache-2.0

//go:build !race

package join

const raced = false
