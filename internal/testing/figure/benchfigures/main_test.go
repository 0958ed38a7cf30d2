// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTheTableIsValid(t *testing.T) {
	all, err := rows(table)
	require.NoError(t, err)
	assert.NotEmpty(t, all)
	_, err = rows("BenchmarkA B a")
	require.ErrorContains(t, err, "4 or 6 fields")
	_, err = rows("BenchmarkA B a B < 5")
	require.ErrorContains(t, err, "no valid goal")
}

func TestMeasurementsAreReadFromALine(t *testing.T) {
	name, values := measurements("BenchmarkJoin/gpus=8-2   \t 1\t 123 ns/op\t 41000 spans/s\t 5 allocs/op")
	assert.Equal(t, "BenchmarkJoin/gpus=8", name)
	assert.Equal(t, map[string]float64{"ns/op": 123, "spans/s": 41000, "allocs/op": 5}, values)
	name, _ = measurements("ok  \tpackage\t1.0s")
	assert.Empty(t, name)
}

func TestAFailureAndAnEmptyInputAreErrors(t *testing.T) {
	require.ErrorContains(t, run(strings.NewReader("BenchmarkJoin-2 1 5 spans/s\n--- FAIL: BenchmarkX\n")), "failed")
	require.ErrorContains(t, run(strings.NewReader("ok\n")), "no measurement")
	require.NoError(t, run(strings.NewReader("BenchmarkJoin-2 1 50000 spans/s\n")))
}
