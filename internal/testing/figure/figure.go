// SPDX-License-Identifier: Apache-2.0

// Package figure prints measured figures, one line each, so that people and
// scripts read them alike:
//
//	figure NAME VALUE UNIT goal OP LIMIT met|missed
//
// With RECORD=1 the lines are also appended to docs/measurements as a dated table.
package figure

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// Print prints a figure that has no goal.
func Print(name string, value float64, unit string) {
	write(name, value, unit, "", "")
}

// AtMost prints a figure and whether it keeps to its limit.
func AtMost(name string, value float64, unit string, limit float64) {
	goal := "goal <= " + format(limit)
	verdict := "met"
	if value > limit {
		verdict = "missed"
	}
	write(name, value, unit, goal, verdict)
}

// AtLeast prints a figure and whether it reaches its goal.
func AtLeast(name string, value float64, unit string, goal float64) {
	verdict := "met"
	if value < goal {
		verdict = "missed"
	}
	write(name, value, unit, "goal >= "+format(goal), verdict)
}

func write(name string, value float64, unit, goal, verdict string) {
	line := fmt.Sprintf("figure %s %s %s", name, format(value), unit)
	if goal != "" {
		line += " " + goal + " " + verdict
	}
	fmt.Println(line)
	if os.Getenv("RECORD") != "1" {
		return
	}
	if err := record(name, format(value), unit, goal, verdict); err != nil {
		fmt.Fprintln(os.Stderr, "figure: cannot record:", err)
	}
}

func format(v float64) string {
	if v == math.Trunc(v) && math.Abs(v) < 1e15 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 4, 64)
}

func record(name, value, unit, goal, verdict string) error {
	root, err := Root()
	if err != nil {
		return err
	}
	path := filepath.Join(root, "docs", "measurements", time.Now().UTC().Format("2006-01-02")+".md")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	_, missing := os.Stat(path)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if missing != nil {
		fmt.Fprintf(f, "# Measured on %s\n\n| figure | value | unit | goal | |\n| --- | --- | --- | --- | --- |\n", time.Now().UTC().Format("2006-01-02"))
	}
	_, err = fmt.Fprintf(f, "| %s | %s | %s | %s | %s |\n", name, value, unit, goal, verdict)
	return err
}

// Root is the repository's top folder, found from the working directory.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "builder-config.yaml")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", fmt.Errorf("no builder-config.yaml above the working directory: run inside the repository")
		}
		dir = parent
	}
}
