// SPDX-License-Identifier: Apache-2.0

package services

import (
	"fmt"
	"os"
	"testing"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/snapshot"
)

func TestMain(m *testing.M) {
	if err := snapshot.LoadDifferences(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	code := m.Run()
	if err := snapshot.UnusedDifferences(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}
