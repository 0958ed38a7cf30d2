// SPDX-License-Identifier: Apache-2.0

// Command texts lists what users read of the product: the texts of log messages and
// errors in its hand-written code, and the descriptions in its metadata.yaml files, one a
// line. `make texts` draws thirty of them for a review.
package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// textCalls are the functions and methods whose first text arguments users read.
var textCalls = map[string]bool{
	"Debug": true, "Info": true, "Warn": true, "Error": true, "Log": true, // zap
	"New": true, "Errorf": true, // errors, fmt
	"Add": true, "AddIf": true, // configkeys.Problems
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "texts:", err)
		os.Exit(1)
	}
}

func run() error {
	out, err := exec.Command("git", "ls-files", "receiver", "connector", "extension", "internal").Output()
	if err != nil {
		return err
	}
	texts := map[string]bool{}
	for name := range strings.Lines(string(out)) {
		name = strings.TrimSpace(name)
		switch {
		case strings.HasPrefix(name, "internal/testing/"), strings.HasSuffix(name, "_test.go"), strings.Contains(name, "/generated_"):
		case strings.HasSuffix(name, ".go"):
			err = ofCode(name, texts)
		case strings.HasSuffix(name, "metadata.yaml"):
			err = ofMetadata(name, texts)
		}
		if err != nil {
			return err
		}
	}
	for _, text := range slices.Sorted(maps.Keys(texts)) {
		fmt.Println(text)
	}
	return nil
}

// ofCode adds the texts of a Go file that have at least three words.
func ofCode(name string, texts map[string]bool) error {
	file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		function, ok := call.Fun.(*ast.SelectorExpr)
		if !ok || !textCalls[function.Sel.Name] {
			return true
		}
		for _, a := range call.Args {
			if l, ok := a.(*ast.BasicLit); ok && l.Kind == token.STRING {
				if text, err := strconv.Unquote(l.Value); err == nil && len(strings.Fields(text)) >= 3 {
					texts[text] = true
				}
			}
		}
		return true
	})
	return nil
}

// ofMetadata adds the descriptions of a metadata.yaml.
func ofMetadata(name string, texts map[string]bool) error {
	raw, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	var root any
	if err := yaml.Unmarshal(raw, &root); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	var walk func(any)
	walk = func(v any) {
		m, _ := v.(map[string]any)
		for key, inner := range m {
			if text, ok := inner.(string); ok && key == "description" {
				texts[strings.Join(strings.Fields(text), " ")] = true
			}
			walk(inner)
		}
	}
	walk(root)
	return nil
}
