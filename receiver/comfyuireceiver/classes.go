// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"errors"
	"sync"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
)

// apiClasses knows which classes of nodes run elsewhere (API nodes), so that their spans name
// no GPU. The server is asked about each class once, when a prompt with it was accepted. Its
// methods may be called from any goroutine.
type apiClasses struct {
	limit int

	mu sync.Mutex
	// known is true for a class of API nodes; guarded by mu, as is unknown.
	known map[string]bool
	// unknown are the classes that the server has not been asked about.
	unknown []string
}

func newAPIClasses(limit int) *apiClasses {
	return &apiClasses{limit: limit, known: map[string]bool{}}
}

// IsAPINode implements [spans.Classes].
func (c *apiClasses) IsAPINode(class string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known[class]
}

// seen records the classes of a prompt that was accepted, and reports whether the server is to
// be asked about some. Classes beyond the limit count as nodes that run on the server.
func (c *apiClasses) seen(p *prompt.Prompt) (isNew bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range p.Submission.Nodes {
		class := p.Submission.Nodes[i].Class
		if _, known := c.known[class]; known || class == "" || len(c.known) >= c.limit {
			continue
		}
		c.known[class] = false
		c.unknown = append(c.unknown, class)
		isNew = true
	}
	return isNew
}

// next returns a class that the server has not been asked about.
func (c *apiClasses) next() (class string, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.unknown) == 0 {
		return "", false
	}
	class, c.unknown = c.unknown[0], c.unknown[1:]
	return class, true
}

// learned records the server's answer.
func (c *apiClasses) learned(class string, isAPI bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known[class] = isAPI
}

// askAgain records that the server could not be asked.
func (c *apiClasses) askAgain(class string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unknown = append(c.unknown, class)
}

// learnClasses asks the server about the classes of nodes that are new.
func (f *follower) learnClasses(ctx context.Context) {
	learned := false
	defer func() {
		if learned {
			f.tracker.ClassesLearned()
		}
	}()
	for ctx.Err() == nil {
		class, ok := f.classes.next()
		if !ok {
			return
		}
		isAPI, err := f.server.isAPINode(ctx, class)
		if err != nil && !errors.Is(err, errAnswered) {
			f.classes.askAgain(class)
			return
		}
		f.classes.learned(class, isAPI)
		learned = learned || isAPI
	}
}
