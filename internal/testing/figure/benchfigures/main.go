// SPDX-License-Identifier: Apache-2.0

// Command benchfigures reads the output of `go test -bench` and prints a figure line for
// each measurement that figures.txt names. It exits with 1 if the input holds a failure,
// or none of the named measurements.
package main

import (
	"bufio"
	_ "embed"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
)

//go:embed figures.txt
var table string

// row is one line of figures.txt.
type row struct {
	name, unit string
	op         string // <=, >=, or empty without a goal
	limit      float64
}

// key is a benchmark and the unit of one of its measurements, as go test prints it.
type key struct{ benchmark, unit string }

func main() {
	if err := run(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "benchfigures:", err)
		os.Exit(1)
	}
}

// rows parses figures.txt: benchmark, its unit, figure, the figure's unit, and with a
// goal <= or >= and the limit.
func rows(text string) (map[key]row, error) {
	all := map[key]row{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 || f[0][0] == '#' {
			continue
		}
		if len(f) != 4 && len(f) != 6 {
			return nil, fmt.Errorf("figures.txt: %q does not have 4 or 6 fields", strings.TrimSpace(line))
		}
		r := row{name: f[2], unit: f[3]}
		if len(f) == 6 {
			limit, err := strconv.ParseFloat(f[5], 64)
			if err != nil || f[4] != "<=" && f[4] != ">=" {
				return nil, fmt.Errorf("figures.txt: %q has no valid goal", strings.TrimSpace(line))
			}
			r.op, r.limit = f[4], limit
		}
		all[key{f[0], f[1]}] = r
	}
	return all, nil
}

// measurements parses one line of a benchmark's result: name, iterations, then pairs of
// value and unit. The name loses its GOMAXPROCS suffix.
func measurements(line string) (benchmark string, values map[string]float64) {
	f := strings.Fields(line)
	if len(f) < 4 || !strings.HasPrefix(f[0], "Benchmark") {
		return "", nil
	}
	benchmark = f[0]
	if i := strings.LastIndexByte(benchmark, '-'); i > 0 {
		if _, err := strconv.Atoi(benchmark[i+1:]); err == nil {
			benchmark = benchmark[:i]
		}
	}
	values = map[string]float64{}
	for i := 2; i+1 < len(f); i += 2 {
		if v, err := strconv.ParseFloat(f[i], 64); err == nil {
			values[f[i+1]] = v
		}
	}
	return benchmark, values
}

func run(in io.Reader) error {
	named, err := rows(table)
	if err != nil {
		return err
	}
	printed := 0
	var failure string
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		line := lines.Text()
		if failure == "" && (strings.HasPrefix(line, "--- FAIL") || strings.HasPrefix(line, "FAIL") || strings.HasPrefix(line, "panic:")) {
			failure = line
		}
		if failure != "" {
			fmt.Fprintln(os.Stderr, line)
		}
		benchmark, values := measurements(line)
		for unit, v := range values {
			r, ok := named[key{benchmark, unit}]
			if !ok {
				continue
			}
			printed++
			switch r.op {
			case "<=":
				figure.AtMost(r.name, v, r.unit, r.limit)
			case ">=":
				figure.AtLeast(r.name, v, r.unit, r.limit)
			default:
				figure.Print(r.name, v, r.unit)
			}
		}
	}
	switch {
	case lines.Err() != nil:
		return lines.Err()
	case failure != "":
		return fmt.Errorf("the benchmarks failed: %s", failure)
	case printed == 0:
		return fmt.Errorf("no measurement that figures.txt names was in the input")
	}
	return nil
}
