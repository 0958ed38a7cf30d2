// SPDX-License-Identifier: Apache-2.0

package words

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	// maxFunctionFields bounds the struct fields of function type in the product, clocks
	// aside: one small interface says more.
	maxFunctionFields = 10
	// maxFileLines bounds a product file: one file, one idea.
	maxFileLines = 400
)

// isProduct reports whether a file belongs to the components or what they share.
func isProduct(name string) bool {
	for _, folder := range []string{"receiver/", "connector/", "extension/", "internal/"} {
		if strings.HasPrefix(name, folder) {
			return !strings.HasPrefix(name, "internal/testing/") && !strings.HasSuffix(name, "_test.go") && !strings.HasPrefix(filepath.Base(name), "generated_")
		}
	}
	return false
}

// holdsFunction reports whether a type is a function, or a list, a map or a channel of
// functions.
func holdsFunction(t ast.Expr) bool {
	switch t := t.(type) {
	case *ast.FuncType:
		return true
	case *ast.ArrayType:
		return holdsFunction(t.Elt)
	case *ast.MapType:
		return holdsFunction(t.Value)
	case *ast.ChanType:
		return holdsFunction(t.Value)
	}
	return false
}

// functionFields lists the struct fields of function type besides clocks, and of them
// those without a comment.
func functionFields(fset *token.FileSet, file *ast.File) (all, uncommented []string) {
	ast.Inspect(file, func(n ast.Node) bool {
		s, ok := n.(*ast.StructType)
		if !ok {
			return true
		}
		for _, field := range s.Fields.List {
			if !holdsFunction(field.Type) {
				continue
			}
			for _, name := range field.Names {
				if strings.EqualFold(name.Name, "now") {
					continue // a clock
				}
				p := fset.Position(name.Pos())
				at := fmt.Sprintf("%s:%d: %s", p.Filename, p.Line, name.Name)
				all = append(all, at)
				if field.Doc == nil && field.Comment == nil {
					uncommented = append(uncommented, at)
				}
			}
		}
		return true
	})
	return all, uncommented
}

func TestTheProductHasFewFunctionFieldsAndEachHasItsContract(t *testing.T) {
	root, files := tracked(t, ".go")
	var all, uncommented []string
	for _, name := range files {
		if !isProduct(name) {
			continue
		}
		fset := token.NewFileSet()
		src, err := os.ReadFile(filepath.Join(root, name))
		require.NoError(t, err)
		file, err := parser.ParseFile(fset, name, src, parser.ParseComments)
		require.NoError(t, err)
		a, u := functionFields(fset, file)
		all, uncommented = append(all, a...), append(uncommented, u...)
	}
	assert.LessOrEqual(t, len(all), maxFunctionFields, "struct fields of function type:\n%s", strings.Join(all, "\n"))
	assert.Empty(t, uncommented, "fields of function type without their contract")
}

func TestProductFilesAreShort(t *testing.T) {
	root, files := tracked(t, ".go")
	for _, name := range files {
		if !isProduct(name) {
			continue
		}
		src, err := os.ReadFile(filepath.Join(root, name))
		require.NoError(t, err)
		assert.LessOrEqual(t, bytes.Count(src, []byte("\n")), maxFileLines, name)
	}
}

func TestTheFieldCheckFindsFunctions(t *testing.T) {
	const src = "package p\n\ntype a struct {\n\tnow func()\n\t// b is called.\n\tb func(int) error\n\tc, d func()\n\te map[int][]func()\n\tf []int\n}\n"
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "p.go", src, parser.ParseComments)
	require.NoError(t, err)
	all, uncommented := functionFields(fset, file)
	assert.Equal(t, []string{"p.go:6: b", "p.go:7: c", "p.go:7: d", "p.go:8: e"}, all)
	assert.Len(t, uncommented, 3)
}
