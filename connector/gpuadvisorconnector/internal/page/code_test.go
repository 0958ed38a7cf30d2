// SPDX-License-Identifier: Apache-2.0

package page

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// spokenFields are the fields of package view that a reader reads as they are.
var spokenFields = []string{"Text", "Remedy", "Status", "Sentence", "Reason", "NoBill", "NoUsual", "Why", "Message"}

// isSilent reports whether the texts of a call are seen by no reader of the page: errors, the log, and
// what is wrong with the configuration.
func isSilent(function string) bool {
	method := function[strings.LastIndex(function, ".")+1:]
	return slices.Contains([]string{"fmt.Errorf", "errors.New", "panic"}, function) || slices.Contains([]string{"Info", "Warn", "AddIf"}, method)
}

// codeTexts finds the texts in a Go file that the page would show and that come from no catalogue: a
// literal that reads like a sentence, one that is the same in each language, and one that is the
// whole value of a field which a reader reads.
func codeTexts(t *testing.T, name string, source any) (found []string) {
	t.Helper()
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, name, source, 0)
	require.NoError(t, err)
	objected := map[token.Pos]bool{}
	object := func(literal *ast.BasicLit, why string) {
		if objected[literal.Pos()] {
			return
		}
		objected[literal.Pos()] = true
		found = append(found, fmt.Sprintf("%s: %s: %s", files.Position(literal.Pos()), why, literal.Value))
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ImportSpec:
			return false
		case *ast.FuncDecl: // the text of an error
			return n.Name.Name != "Error"
		case *ast.Field: // its tag
			if n.Tag != nil {
				n.Tag = nil
			}
		case *ast.CallExpr:
			name := nameOf(n.Fun)
			if isSilent(name) {
				return false
			}
			if name == "texts.Verbatim" && len(n.Args) == 1 {
				for _, literal := range wordsIn(n.Args[0]) {
					object(literal, "is the same in each language")
				}
				return false
			}
		case *ast.KeyValueExpr:
			if slices.Contains(spokenFields, nameOf(n.Key)) {
				for _, literal := range wordsIn(n.Value) {
					object(literal, "is read")
				}
			}
		case *ast.AssignStmt:
			for i, to := range n.Lhs {
				if field, ok := to.(*ast.SelectorExpr); ok && i < len(n.Rhs) && slices.Contains(spokenFields, field.Sel.Name) {
					for _, literal := range wordsIn(n.Rhs[i]) {
						object(literal, "is read")
					}
				}
			}
		case *ast.BasicLit:
			if n.Kind != token.STRING {
				return false
			}
			text, err := strconv.Unquote(n.Value)
			require.NoError(t, err)
			if readsLikeAText(text) && !strings.HasPrefix(text, "comfyui.") { // the name of a span
				object(n, "reads like a text")
			}
		}
		return true
	})
	return found
}

// readsLikeAText is as for scripts: two words, one that begins a sentence, or another script.
func readsLikeAText(text string) bool {
	isForeign := strings.ContainsFunc(text, func(r rune) bool { return r > unicode.MaxLatin1 && unicode.IsLetter(r) })
	return isForeign || twoWords.MatchString(text) || sentence.MatchString(text)
}

// wordsIn are the literals with a letter of an expression that is a text itself: not the key of a
// message, nor what a function is asked for.
func wordsIn(of ast.Expr) (all []*ast.BasicLit) {
	switch e := of.(type) {
	case *ast.BasicLit:
		if e.Kind == token.STRING && strings.ContainsFunc(e.Value, unicode.IsLetter) && !isKey(e.Value) {
			all = append(all, e)
		}
	case *ast.BinaryExpr:
		all = append(wordsIn(e.X), wordsIn(e.Y)...)
	case *ast.ParenExpr:
		all = wordsIn(e.X)
	case *ast.CallExpr:
		if name := nameOf(e.Fun); name == "fmt.Sprint" || name == "fmt.Sprintf" || name == "cmp.Or" || name == "string" {
			for _, argument := range e.Args {
				all = append(all, wordsIn(argument)...)
			}
		}
	}
	return all
}

// isKey reports whether a literal is a key of the catalogue, or its beginning.
func isKey(quoted string) bool {
	return strings.Contains(quoted, ".") && !strings.ContainsAny(quoted, " ,:")
}

// nameOf is the name of a function or a field: with its package, if it has one.
func nameOf(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		if before := nameOf(e.X); before != "" {
			return before + "." + e.Sel.Name
		}
		return e.Sel.Name
	}
	return ""
}

// TestNoTextStandsInTheCodeBehindThePage of what the page shows: conditions, sentences, states.
func TestNoTextStandsInTheCodeBehindThePage(t *testing.T) {
	read := 0
	for _, folder := range []string{"alerts", "causes", "machine", "prompts", "state", "texts"} {
		names, err := filepath.Glob("../" + folder + "/*.go")
		require.NoError(t, err)
		for _, name := range names {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			read++
			for _, why := range codeTexts(t, name, nil) {
				t.Errorf("%s: move it to the catalogue", why)
			}
		}
	}
	assert.Greater(t, read, 25)
}

func TestTheCheckFindsEachKindOfTextInCode(t *testing.T) {
	for statement, count := range map[string]int{
		`v.Sentence = "It waited for long."`:                  1,
		`v.Text = "waits"`:                                    1,
		`v.Remedy = v.Text + ": restart"`:                     1,
		`v := view.Condition{Remedy: "restart"}; _ = v`:       1,
		`v.Text = fmt.Sprintf("waits %d", 3)`:                 1,
		`found.args["where"] = texts.Verbatim("the GPU")`:     1,
		`found.args["where"] = texts.Verbatim("lost")`:        1,
		`args := texts.Args{"why": "Unknown"}; _ = args`:      1,
		`x := "队列"; _ = x`:                                    1,
		`if n > 1 { key = "two of them wait" }`:               1,
		`v.Text = texts.Message{Key: "cause.gpu.lost"}.In(l)`: 0,
		`v.Kind = "cause"; v.State = "waiting"`:               0,
		`args["where"] = texts.Verbatim(g.Label())`:           0,
		`return fmt.Errorf("read the catalogue: %w", err)`:    0,
		`s.log.Warn("Failed to read it", zap.Error(err))`:     0,
		`name := "comfyui.node LoadImage"; _ = name`:          0,
		`key = "prompt." + outcome`:                           0,
	} {
		assert.Len(t, codeTexts(t, "x.go", "package x\nfunc f() error {\n"+statement+"\nreturn nil\n}"), count, statement)
	}
}
