// SPDX-License-Identifier: Apache-2.0

// Package bounds checks that every container of a long-lived type is registered by a
// Bounds method (internal/bounds), or is exempt for a reason.
package bounds

import (
	"fmt"
	"go/ast"
	"go/build/constraint"
	"go/parser"
	"go/token"
	"go/types"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
)

// stubs stand for what the check must know of other packages. All other types of theirs
// stay unknown: they are not ours.
var stubs = map[string]string{
	"sync":           "package sync; type Map struct{}; type Mutex struct{}; type RWMutex struct{}; type WaitGroup struct{}; type Pool struct{}",
	"sync/atomic":    "package atomic; type Pointer[T any] struct{ p *T }; type Int64 struct{}; type Int32 struct{}; type Bool struct{}",
	"container/list": "package list; type List struct{}; type Element struct{ Value any }",
	"container/ring": "package ring; type Ring struct{}",
}

// checker knows the types of the product.
type checker struct {
	fset     *token.FileSet
	files    map[string][]*ast.File // by import path
	packages map[string]*types.Package
	// buffered are the fields that are assigned a channel of signals that holds more than
	// one, as package.field.
	buffered map[string]bool

	longLived map[*types.Named]bool
}

// newChecker reads sources, which are given by import path and file name.
func newChecker(sources map[string]map[string]string) (*checker, error) {
	c := &checker{
		fset: token.NewFileSet(), files: map[string][]*ast.File{}, packages: map[string]*types.Package{},
		buffered: map[string]bool{}, longLived: map[*types.Named]bool{},
	}
	for importPath, files := range sources {
		for _, name := range slices.Sorted(maps.Keys(files)) {
			file, err := parser.ParseFile(c.fset, name, files[name], parser.ParseComments)
			if err != nil {
				return nil, err
			}
			if builds(file) {
				c.files[importPath] = append(c.files[importPath], file)
			}
		}
	}
	byName := map[string]string{}
	for importPath := range c.files {
		p, err := c.Import(importPath)
		if err != nil {
			return nil, err
		}
		if other := byName[p.Name()]; other != "" {
			return nil, fmt.Errorf("%s and %s have the same package name, by which containers are registered", other, importPath)
		}
		byName[p.Name()] = importPath
		c.findBuffered(p.Name(), c.files[importPath])
	}
	c.findLongLived()
	return c, nil
}

// builds reports whether a file is part of the product on Linux with cgo.
func builds(file *ast.File) bool {
	for _, group := range file.Comments {
		for _, line := range group.List {
			if x, err := constraint.Parse(line.Text); err == nil {
				return x.Eval(func(tag string) bool { return tag == "linux" || tag == "cgo" })
			}
		}
	}
	return true
}

// Import implements [types.Importer].
func (c *checker) Import(importPath string) (*types.Package, error) {
	if p := c.packages[importPath]; p != nil {
		return p, nil
	}
	files := c.files[importPath]
	if stub, ok := stubs[importPath]; ok {
		file, err := parser.ParseFile(c.fset, importPath, stub, 0)
		if err != nil {
			return nil, err
		}
		files = []*ast.File{file}
	}
	if files == nil {
		p := types.NewPackage(importPath, path.Base(importPath))
		p.MarkComplete()
		c.packages[importPath] = p
		return p, nil
	}
	// Types of other packages are unknown, which is not an error here.
	conf := types.Config{Importer: c, IgnoreFuncBodies: true, Error: func(error) {}}
	p, _ := conf.Check(importPath, c.fset, files, nil)
	c.packages[importPath] = p
	return p, nil
}

// findBuffered finds the channels of signals that hold more than one.
func (c *checker) findBuffered(name string, files []*ast.File) {
	note := func(target, value ast.Expr) {
		call, ok := value.(*ast.CallExpr)
		if !ok || len(call.Args) != 2 {
			return
		}
		f, ok := call.Fun.(*ast.Ident)
		if _, isChan := call.Args[0].(*ast.ChanType); !ok || f.Name != "make" || !isChan {
			return
		}
		if n, ok := call.Args[1].(*ast.BasicLit); ok && (n.Value == "0" || n.Value == "1") {
			return
		}
		switch target := target.(type) {
		case *ast.Ident:
			c.buffered[name+"."+target.Name] = true
		case *ast.SelectorExpr:
			c.buffered[name+"."+target.Sel.Name] = true
		}
	}
	for _, file := range files {
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.KeyValueExpr:
				note(n.Key, n.Value)
			case *ast.AssignStmt:
				for i := range min(len(n.Lhs), len(n.Rhs)) {
					note(n.Lhs[i], n.Rhs[i])
				}
			}
			return true
		})
	}
}

// named lists the types of a package.
func named(p *types.Package) (all []*types.Named) {
	for _, name := range p.Scope().Names() {
		if t, ok := p.Scope().Lookup(name).(*types.TypeName); ok && !t.IsAlias() {
			if n, ok := t.Type().(*types.Named); ok {
				all = append(all, n)
			}
		}
	}
	return all
}

// isOurs reports whether a type is the product's.
func (c *checker) isOurs(n *types.Named) bool {
	return n.Obj().Pkg() != nil && c.files[n.Obj().Pkg().Path()] != nil
}

// lifecycle are the methods by which components begin and end.
var lifecycle = []string{"Start", "start", "Shutdown", "shutdown"}

// findLongLived finds the types that live as long as a component: those that a package with a
// factory starts or makes in it, all that can be reached from their fields, and the
// types that embed one of them.
func (c *checker) findLongLived() {
	for importPath, files := range c.files {
		p := c.packages[importPath]
		if p.Scope().Lookup("NewFactory") == nil {
			continue
		}
		for _, n := range named(p) {
			for i := range n.NumMethods() {
				m := n.Method(i)
				if slices.Contains(lifecycle, m.Name()) && m.Signature().Params().Len() > 0 {
					c.visit(n)
				}
			}
		}
		for _, file := range files {
			c.visitFactory(p, file)
		}
	}
	for before := -1; before != len(c.longLived); {
		before = len(c.longLived)
		for importPath := range c.files {
			for _, n := range named(c.packages[importPath]) {
				if c.embedsLongLived(n) {
					c.visit(n)
				}
			}
		}
	}
}

// visitFactory visits the types that NewFactory makes.
func (c *checker) visitFactory(p *types.Package, file *ast.File) {
	for _, d := range file.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || f.Name.Name != "NewFactory" {
			continue
		}
		ast.Inspect(f, func(n ast.Node) bool {
			literal, ok := n.(*ast.CompositeLit)
			if !ok {
				return true
			}
			if name, ok := literal.Type.(*ast.Ident); ok {
				if t := p.Scope().Lookup(name.Name); t != nil {
					c.visit(t.Type())
				}
			}
			return true
		})
	}
}

func (c *checker) embedsLongLived(n *types.Named) bool {
	s, ok := n.Underlying().(*types.Struct)
	for i := 0; ok && i < s.NumFields(); i++ {
		t := s.Field(i).Type()
		if p, isPointer := t.(*types.Pointer); isPointer {
			t = p.Elem()
		}
		if of, isNamed := t.(*types.Named); isNamed && s.Field(i).Embedded() && c.longLived[of.Origin()] {
			return true
		}
	}
	return false
}

// visit makes a type long-lived, with all that can be reached from it.
func (c *checker) visit(t types.Type) {
	switch t := types.Unalias(t).(type) {
	case *types.Pointer:
		c.visit(t.Elem())
	case *types.Slice:
		c.visit(t.Elem())
	case *types.Array:
		c.visit(t.Elem())
	case *types.Chan:
		c.visit(t.Elem())
	case *types.Map:
		c.visit(t.Key())
		c.visit(t.Elem())
	case *types.Struct:
		for i := range t.NumFields() {
			c.visit(t.Field(i).Type())
		}
	case *types.Interface:
		c.visitImplementers(t)
	case *types.Named:
		for i := range t.TypeArgs().Len() {
			c.visit(t.TypeArgs().At(i))
		}
		t = t.Origin()
		if !c.isOurs(t) || c.longLived[t] {
			return
		}
		c.longLived[t] = true
		c.visit(t.Underlying())
	}
}

// visitImplementers visits the types that have an interface's methods, by their names: the
// signatures may have types that are unknown.
func (c *checker) visitImplementers(t *types.Interface) {
	if t.NumMethods() == 0 {
		return
	}
	for importPath := range c.files {
		for _, n := range named(c.packages[importPath]) {
			if types.IsInterface(n) {
				continue
			}
			set := types.NewMethodSet(types.NewPointer(n))
			has := true
			for i := range t.NumMethods() {
				m := t.Method(i)
				has = has && set.Lookup(m.Pkg(), m.Name()) != nil
			}
			if has {
				c.visit(n)
			}
		}
	}
}

// isContainer reports whether a field of a type holds any number of items.
func (c *checker) isContainer(field string, t types.Type) bool {
	switch t := types.Unalias(t).(type) {
	case *types.Pointer:
		return c.isContainer(field, t.Elem())
	case *types.Named:
		if p := t.Obj().Pkg(); p != nil && !c.isOurs(t) {
			switch p.Path() + "." + t.Obj().Name() {
			case "sync.Map", "container/list.List", "container/ring.Ring":
				return true
			}
			for i := range t.TypeArgs().Len() {
				if c.isContainer(field, t.TypeArgs().At(i)) {
					return true
				}
			}
			return false
		}
		if _, ok := t.Underlying().(*types.Struct); ok {
			return false // it has fields of its own
		}
		return c.isContainer(field, t.Underlying())
	case *types.Map, *types.Slice:
		return true
	case *types.Array:
		return c.isContainer(field, t.Elem())
	case *types.Chan:
		s, ok := t.Elem().Underlying().(*types.Struct)
		return !ok || s.NumFields() > 0 || c.buffered[field]
	case *types.Struct:
		for f := range t.Fields() {
			if c.isContainer(field, f.Type()) {
				return true
			}
		}
	}
	return false
}

// containers lists those of all long-lived types, as package.Type.field.
func (c *checker) containers() (all []string) {
	for n := range c.longLived {
		s, ok := n.Underlying().(*types.Struct)
		if !ok {
			continue
		}
		name := n.Obj().Pkg().Name()
		for f := range s.Fields() {
			if c.isContainer(name+"."+f.Name(), f.Type()) {
				all = append(all, name+"."+n.Obj().Name()+"."+f.Name())
			}
		}
	}
	slices.Sort(all)
	return all
}

// registered lists the texts of each package's Bounds methods that name a container of
// the package.
func (c *checker) registered() map[string]bool {
	all := map[string]bool{}
	for importPath, files := range c.files {
		prefix := c.packages[importPath].Name() + "."
		for _, file := range files {
			for _, d := range file.Decls {
				f, ok := d.(*ast.FuncDecl)
				if !ok || f.Recv == nil || f.Name.Name != "Bounds" {
					continue
				}
				ast.Inspect(f, func(n ast.Node) bool {
					if text, ok := n.(*ast.BasicLit); ok && text.Kind == token.STRING {
						if name, err := strconv.Unquote(text.Value); err == nil && strings.HasPrefix(name, prefix) {
							all[name] = true
						}
					}
					return true
				})
			}
		}
	}
	return all
}

// check compares the containers with what is registered and what is exempt: lines of a
// type or a field, and the reason.
func (c *checker) check(exempt string) (problems []string) {
	report := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	registered, used := c.registered(), map[string]bool{}
	exemptions := map[string]bool{}
	for line := range strings.Lines(exempt) {
		name, reason, _ := strings.Cut(strings.TrimSpace(line), " ")
		if name == "" || strings.HasPrefix(name, "#") {
			continue
		}
		exemptions[name] = true
		if strings.TrimSpace(reason) == "" {
			report("the exemption of %s has no reason", name)
		}
	}
	for _, name := range c.containers() {
		of := name[:strings.LastIndex(name, ".")]
		switch {
		case registered[name] && exemptions[name]:
			report("%s is registered and exempt", name)
		case registered[name]:
		case exemptions[name]:
		case exemptions[of]:
			used[of] = true
		default:
			report("%s is not registered: give it a bound, and name it in a Bounds method of its package, or in testdata/exempt.txt with the reason", name)
		}
		used[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(registered)) {
		if !used[name] {
			report("%s is registered, and is not a container of a long-lived type", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(exemptions)) {
		if !used[name] {
			report("%s is exempt, and is not a long-lived type with a container that is not registered, nor such a container", name)
		}
	}
	return problems
}
