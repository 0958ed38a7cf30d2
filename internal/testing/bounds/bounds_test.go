// SPDX-License-Identifier: Apache-2.0

package bounds

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
)

const module = "github.com/otelcol-gpu/otelcol-gpu"

// product reads the components and what they share, by import path and file name.
func product(t *testing.T) map[string]map[string]string {
	t.Helper()
	root, err := figure.Root()
	require.NoError(t, err)
	all := map[string]map[string]string{}
	for _, folder := range []string{"receiver", "connector", "extension", "internal"} {
		require.NoError(t, filepath.WalkDir(filepath.Join(root, folder), func(name string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if entry.IsDir() {
				switch entry.Name() {
				case "testing", "testdata", "metadata", "metadatatest":
					return filepath.SkipDir
				}
				return nil
			}
			if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
				return nil
			}
			src, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			relative, err := filepath.Rel(root, name)
			if err != nil {
				return err
			}
			relative = filepath.ToSlash(relative)
			importPath := path.Join(module, path.Dir(relative))
			if all[importPath] == nil {
				all[importPath] = map[string]string{}
			}
			all[importPath][relative] = string(src)
			return nil
		}))
	}
	return all
}

func TestEveryContainerOfTheProductIsRegisteredOrExempt(t *testing.T) {
	c, err := newChecker(product(t))
	require.NoError(t, err)
	all := c.containers()
	require.Greater(t, len(all), 50, "the check finds them")
	exempt, err := os.ReadFile("testdata/exempt.txt")
	require.NoError(t, err)
	if problems := c.check(string(exempt)); len(problems) > 0 {
		t.Errorf("%d problems:\n%s", len(problems), strings.Join(problems, "\n"))
	}
}

// sample is a component with a part of another package.
var sample = map[string]map[string]string{
	"example/p": {"p.go": `package p

import (
	"container/list"
	"context"
	"sync"
	"sync/atomic"

	"example/part"
	"example/unknown"
)

func NewFactory() any { return &factory{} }

type factory struct{ made map[string]*component }

type component struct {
	unregistered map[string]int
	registered   []string
	fixed        [4]int
	signal, many chan struct{}
	events       chan int
	cached       sync.Map
	inOrder      list.List
	answer       atomic.Pointer[[]string]
	grid         [2][]int
	named        queue
	part         *part.Part[*item]
	observer     observer
	other        unknown.Thing
}

type queue []int

type item struct{ parts []int }

type observer interface{ Observe() }

type watcher struct{ watched map[int]bool }

func (*watcher) Observe() {}

type view struct {
	*component
	page []int
}

type shortLived struct{ list []int }

func (c *component) Start(context.Context) error {
	c.signal, c.many = make(chan struct{}, 1), make(chan struct{}, 8)
	return nil
}

func (c *component) Bounds() []string { return []string{"p.component.registered", "part.Part.list"} }

func helper() string { return "p.component.unregistered" }
`},
	"example/part": {
		"part.go":    "package part\n\ntype Part[T any] struct{ list []T }\n\nfunc (*Part[T]) Bounds() []string { return []string{\"part.Part.list\"} }\n",
		"windows.go": "//go:build windows\n\npackage part\n\ntype other struct{ list []int }\n",
	},
}

func TestTheCheckFindsContainersOfLongLivedTypes(t *testing.T) {
	c, err := newChecker(sample)
	require.NoError(t, err)
	assert.Equal(t, []string{
		"p.component.answer", "p.component.cached", "p.component.events", "p.component.grid", "p.component.inOrder", "p.component.many",
		"p.component.named", "p.component.registered", "p.component.unregistered", "p.factory.made", "p.item.parts", "p.view.page",
		"p.watcher.watched", "part.Part.list",
	}, c.containers())
}

func TestTheCheckFailsForWhatIsNotRegistered(t *testing.T) {
	c, err := newChecker(sample)
	require.NoError(t, err)
	const rest = `# a comment
p.item           one message
p.factory.made   one a component
p.view           a request
p.watcher        fixed
p.component.answer    x
p.component.cached    x
p.component.events    x
p.component.grid      x
p.component.inOrder   x
p.component.many      x
p.component.named     x
`
	problems := c.check(rest)
	require.Len(t, problems, 1)
	assert.Contains(t, problems[0], "p.component.unregistered is not registered")
	assert.Empty(t, c.check(rest+"p.component.unregistered x\n"))
}

func TestTheCheckFailsForExemptionsWithoutUseOrReason(t *testing.T) {
	c, err := newChecker(sample)
	require.NoError(t, err)
	const whole = "p.component x\np.item x\np.factory x\np.view x\np.watcher x\n"
	require.Empty(t, c.check(whole))
	for line, want := range map[string]string{
		"p.component.removed x":    "p.component.removed is exempt, and is not",
		"p.removed x":              "p.removed is exempt, and is not",
		"p.shortLived x":           "p.shortLived is exempt, and is not",
		"p.component.signal x":     "p.component.signal is exempt, and is not",
		"p.component.registered x": "p.component.registered is registered and exempt",
		"p.watcher.watched":        "the exemption of p.watcher.watched has no reason",
	} {
		problems := c.check(whole + line + "\n")
		if line == "p.watcher.watched" {
			problems = c.check(strings.ReplaceAll(whole, "p.watcher x\n", "") + line + "\n")
		}
		require.Len(t, problems, 1, line)
		assert.Contains(t, problems[0], want)
	}
}

func TestTheCheckFailsForARegisteredNameWithoutAContainer(t *testing.T) {
	c, err := newChecker(map[string]map[string]string{"example/p": {"p.go": `package p

func NewFactory() any { return &component{} }

type component struct{ n int }

func (c *component) Bounds() []string { return []string{"p.component.removed"} }
`}})
	require.NoError(t, err)
	problems := c.check("")
	require.Len(t, problems, 1)
	assert.Contains(t, problems[0], "p.component.removed is registered, and is not a container")
}
