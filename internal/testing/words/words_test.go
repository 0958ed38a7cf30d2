// SPDX-License-Identifier: Apache-2.0

// Package words keeps the wording of the repository: identifiers do not begin with
// words that say nothing, and prose keeps to the field's terms.
package words

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
)

// firstWords must not begin an identifier, in any form.
var firstWords = set(`take takes took taken taking tell tells told telling say says said saying
	look looks looked looking strongest hottest longest most`)

func set(words string) map[string]bool {
	all := map[string]bool{}
	for _, w := range strings.Fields(words) {
		all[w] = true
	}
	return all
}

// wholeNames must not be an identifier by themselves.
var wholeNames = set("one own gone kept up down names")

// tracked lists the files that git tracks and whose names end in one of the suffixes.
func tracked(t *testing.T, suffixes ...string) (root string, files []string) {
	t.Helper()
	root, err := figure.Root()
	require.NoError(t, err)
	cmd := exec.Command("git", "ls-files", "--cached", "--others", "--exclude-standard")
	cmd.Dir = root
	out, err := cmd.Output()
	require.NoError(t, err)
	for name := range strings.Lines(string(out)) {
		name = strings.TrimSpace(name)
		if info, err := os.Lstat(filepath.Join(root, name)); err != nil || !info.Mode().IsRegular() {
			continue
		}
		for _, s := range suffixes {
			if strings.HasSuffix(name, s) {
				files = append(files, name)
			}
		}
	}
	require.NotEmpty(t, files)
	return root, files
}

// firstWord is the first word of a name in camel case, in lower case.
func firstWord(name string) string {
	runes := []rune(name)
	for i := 1; i < len(runes); i++ {
		if unicode.IsUpper(runes[i]) || runes[i] == '_' {
			return strings.ToLower(string(runes[:i]))
		}
	}
	return strings.ToLower(name)
}

func objection(name string) string {
	lower := strings.ToLower(name)
	switch {
	case wholeNames[lower]:
		return fmt.Sprintf("%q must not name code", name)
	case firstWords[firstWord(name)]:
		return fmt.Sprintf("%q begins with %q", name, firstWord(name))
	}
	return ""
}

// declared calls f with each function, method, type, field, constant and package
// variable that a file declares.
func declared(file *ast.File, f func(*ast.Ident)) {
	for _, d := range file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			f(d.Name)
		case *ast.GenDecl:
			for _, s := range d.Specs {
				switch s := s.(type) {
				case *ast.TypeSpec:
					f(s.Name)
				case *ast.ValueSpec:
					for _, n := range s.Names {
						f(n)
					}
				}
			}
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.StructType:
			for _, field := range n.Fields.List {
				for _, name := range field.Names {
					f(name)
				}
			}
		case *ast.InterfaceType:
			for _, field := range n.Methods.List {
				for _, name := range field.Names {
					f(name)
				}
			}
		}
		return true
	})
}

// violations lists the identifiers of one file that break the rules.
func violations(fset *token.FileSet, file *ast.File) (found []string) {
	declared(file, func(id *ast.Ident) {
		if why := objection(id.Name); why != "" {
			p := fset.Position(id.Pos())
			found = append(found, fmt.Sprintf("%s:%d: %s", p.Filename, p.Line, why))
		}
	})
	ast.Inspect(file, func(n ast.Node) bool {
		var names []ast.Expr
		switch n := n.(type) {
		case *ast.AssignStmt:
			if n.Tok == token.DEFINE {
				names = n.Lhs
			}
		case *ast.RangeStmt:
			names = []ast.Expr{n.Key, n.Value}
		case *ast.Field:
			for _, id := range n.Names {
				names = append(names, id)
			}
		case *ast.ValueSpec:
			for _, id := range n.Names {
				names = append(names, id)
			}
		}
		for _, e := range names {
			if id, ok := e.(*ast.Ident); ok && id.Name == "any" {
				p := fset.Position(id.Pos())
				found = append(found, fmt.Sprintf("%s:%d: %q is a type: use another name for a variable", p.Filename, p.Line, id.Name))
			}
		}
		return true
	})
	return found
}

func TestIdentifiersAvoidEmptyWords(t *testing.T) {
	root, files := tracked(t, ".go")
	var found []string
	for _, name := range files {
		if strings.HasPrefix(filepath.Base(name), "generated_") {
			continue
		}
		fset := token.NewFileSet()
		src, err := os.ReadFile(filepath.Join(root, name))
		require.NoError(t, err)
		file, err := parser.ParseFile(fset, name, src, parser.SkipObjectResolution)
		require.NoError(t, err)
		found = append(found, violations(fset, file)...)
	}
	if len(found) > 0 {
		t.Errorf("%d identifiers break the rules of CONTRIBUTING.md:\n%s", len(found), strings.Join(found, "\n"))
	}
}

// staleComment is what the first word of a doc comment names, if that looks like an
// identifier and is not the one that is declared.
func staleComment(doc *ast.CommentGroup, name string) string {
	if doc == nil {
		return ""
	}
	word, _, _ := strings.Cut(strings.TrimSpace(doc.Text()), " ")
	hump := strings.IndexFunc(word, unicode.IsUpper) > 0 && strings.IndexFunc(word, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }) < 0
	if word == name || !hump || strings.EqualFold(word, name) {
		return ""
	}
	return word
}

func TestDocCommentsNameWhatTheyDescribe(t *testing.T) {
	root, files := tracked(t, ".go")
	for _, name := range files {
		if strings.HasPrefix(filepath.Base(name), "generated_") {
			continue
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, filepath.Join(root, name), nil, parser.ParseComments)
		require.NoError(t, err)
		for _, d := range file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if word := staleComment(d.Doc, d.Name.Name); word != "" {
					t.Errorf("%s: the comment of %s begins with %s", fset.Position(d.Pos()), d.Name.Name, word)
				}
			case *ast.GenDecl:
				if len(d.Specs) != 1 {
					continue
				}
				var declared string
				switch s := d.Specs[0].(type) {
				case *ast.TypeSpec:
					declared = s.Name.Name
				case *ast.ValueSpec:
					if len(s.Names) != 1 {
						continue
					}
					declared = s.Names[0].Name
				default:
					continue
				}
				if word := staleComment(d.Doc, declared); word != "" {
					t.Errorf("%s: the comment of %s begins with %s", fset.Position(d.Pos()), declared, word)
				}
			}
		}
	}
}

func TestTheIdentifierCheckFindsEachForm(t *testing.T) {
	src := `package p
type took struct{ mostSeries, OwnSockets, own int }
func tellAll(any int) {}
func isUp() {}
func takeaway() {}
const saidOnce = 1
var names, longestGap []int
`
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "p.go", src, 0)
	require.NoError(t, err)
	require.Len(t, violations(fset, file), 8)
}

// phrases reads phrases.txt: a pattern a line, a tab, what to write instead.
func phrases(t *testing.T, root string) (patterns []*regexp.Regexp, instead []string) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(root, "internal", "testing", "words", "phrases.txt"))
	require.NoError(t, err)
	for line := range strings.Lines(string(raw)) {
		line = strings.TrimRight(line, "\n")
		if line == "" || line[0] == '#' {
			continue
		}
		pattern, text, ok := strings.Cut(line, "\t")
		require.True(t, ok, line)
		patterns, instead = append(patterns, regexp.MustCompile(pattern)), append(instead, text)
	}
	return patterns, instead
}

// unreleased cuts the released part off a changelog.
func unreleased(text string) string {
	if i := strings.Index(text, "\n## ["); i >= 0 {
		return text[:i]
	}
	return text
}

// allowance is a comment on the line that keeps a phrase which is right there.
const allowance = "words:allow"

func TestProseKeepsToTheFieldsTerms(t *testing.T) {
	root, files := tracked(t, ".go", ".md", ".yaml", ".yml", ".html")
	patterns, instead := phrases(t, root)
	var found []string
	for _, name := range files {
		base := filepath.Base(name)
		if strings.HasPrefix(name, "testdata/") || strings.HasPrefix(base, "generated_") || strings.HasPrefix(name, "internal/testing/words/") || strings.Contains(name, "/testdata/") {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(root, name))
		require.NoError(t, err)
		text := string(raw)
		if base == "CHANGELOG.md" {
			text = unreleased(text)
		}
		number := 0
		for line := range strings.Lines(text) {
			number++
			if strings.Contains(line, allowance) {
				continue
			}
			for i, p := range patterns {
				if m := p.FindString(line); m != "" {
					found = append(found, fmt.Sprintf("%s:%d: %q: write %s", name, number, strings.TrimSpace(m), instead[i]))
				}
			}
		}
	}
	if len(found) > 0 {
		t.Errorf("%d phrases of internal/testing/words/phrases.txt are found:\n%s", len(found), strings.Join(found, "\n"))
	}
}

// linkPattern is a Markdown link or image to something in the repository.
var linkPattern = regexp.MustCompile(`\]\(([^)#:\s]+)(?:#[^)]*)?\)`)

func TestLinksOfPagesLeadSomewhere(t *testing.T) {
	root, files := tracked(t, ".md")
	for _, name := range files {
		raw, err := os.ReadFile(filepath.Join(root, name))
		require.NoError(t, err)
		for _, m := range linkPattern.FindAllStringSubmatch(string(raw), -1) {
			if _, err := os.Stat(filepath.Join(root, filepath.Dir(name), m[1])); err != nil {
				t.Errorf("%s: the link %s leads nowhere", name, m[1])
			}
		}
	}
}

func TestTheReadmeIsShort(t *testing.T) {
	root, _ := tracked(t, "README.md")
	raw, err := os.ReadFile(filepath.Join(root, "README.md"))
	require.NoError(t, err)
	require.LessOrEqual(t, len(strings.Fields(string(raw))), 1000, "words")
}
