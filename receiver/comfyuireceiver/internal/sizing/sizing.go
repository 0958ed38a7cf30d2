// SPDX-License-Identifier: Apache-2.0

// Package sizing reads the cost of a prompt from its workflow: the image size, the
// steps, the model and the task class.
package sizing

import (
	"cmp"
	_ "embed"
	"fmt"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/otelcol-gpu/otelcol-gpu/internal/configkeys"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

// Rule names the inputs of a node that hold a prompt's size, model and steps.
type Rule struct {
	// Node is the node's class, or a pattern such as "KSampler*" (path.Match).
	Node string `mapstructure:"node"`
	// Size names the input that is both width and height; Width and Height name two.
	Size   string `mapstructure:"size"`
	Width  string `mapstructure:"width"`
	Height string `mapstructure:"height"`
	// Batch names the number of images, Model the model's file, Steps the steps.
	Batch string `mapstructure:"batch"`
	Model string `mapstructure:"model"`
	Steps string `mapstructure:"steps"`
}

// TaskClass names a class of prompts. The first class that matches is used;
// extra_data.task_class of the request takes precedence over all of them.
type TaskClass struct {
	Name string `mapstructure:"name"`
	// MinSide and MaxSide bound the longer side in pixels; 0: no bound.
	MinSide int `mapstructure:"min_side" yaml:"min_side"`
	MaxSide int `mapstructure:"max_side" yaml:"max_side"`
	// Model and Node are patterns (path.Match) of the model and of a node's class.
	Model string `mapstructure:"model"`
	Node  string `mapstructure:"node"`
}

// defaults are the built-in rules and classes, under the keys of the configuration.
//
//go:embed defaults.yaml
var defaults []byte

// Other is the task class of prompts that match no class.
const Other = "other"

// Sizing is the cost of one prompt as its workflow declares it. Unknown values are 0
// or empty.
type Sizing struct {
	Width, Height, Batch, Steps float64
	Model, TaskClass            string
}

// Side is the longer side in pixels.
func (s *Sizing) Side() float64 { return max(s.Width, s.Height) }

// Sizer computes sizings. It may be used from any goroutine.
type Sizer struct {
	// rules begin with the configured ones; builtIn are the others.
	rules, builtIn []Rule
	classes        []TaskClass
}

// builtIn are the rules and classes of defaults.yaml.
type builtIn struct {
	Sizing  []Rule
	Classes []TaskClass `yaml:"task_classes"`
}

func readBuiltIn() (b builtIn, err error) {
	if err := yaml.Unmarshal(defaults, &b); err != nil {
		return b, fmt.Errorf("read the built-in sizing rules: %w", err)
	}
	return b, nil
}

// ClassNames are the classes that prompts may have, [Other] included; those that are built in, if none
// are configured.
func ClassNames(classes []TaskClass) (all []string, err error) {
	if len(classes) == 0 {
		b, err := readBuiltIn()
		if err != nil {
			return nil, err
		}
		classes = b.Classes
	}
	for _, c := range classes {
		all = append(all, c.Name)
	}
	return append(all, Other), nil
}

// NewSizer adds rules before the built-in ones; classes, if there are any, replace the
// built-in ones.
func NewSizer(rules []Rule, classes []TaskClass) (*Sizer, error) {
	builtIn, err := readBuiltIn()
	if err != nil {
		return nil, err
	}
	if len(classes) == 0 {
		classes = builtIn.Classes
	}
	return &Sizer{rules: slices.Concat(rules, builtIn.Sizing), builtIn: builtIn.Sizing, classes: classes}, nil
}

// Of computes a submission's sizing: the largest size, the largest batch, the first
// model, and the sum of the steps of the nodes that the server may execute.
func (s *Sizer) Of(sub *protocol.Submission) (z Sizing) {
	w := s.workload(sub)
	for _, n := range w.executed {
		rule := s.rule(n.Class)
		if rule == nil {
			continue
		}
		width, height := w.size(n, rule)
		if width*height > z.Width*z.Height {
			z.Width, z.Height = width, height
		}
		batch, _ := w.number(n, rule.Batch)
		steps, _ := w.number(n, rule.Steps)
		z.Batch, z.Steps = max(z.Batch, batch), z.Steps+steps
		switch model := n.Inputs[rule.Model]; {
		case !model.IsText && isLinked(n, rule.Model):
			w.hidesModel = true
		case model.IsText && z.Model == "":
			z.Model = model.Value
		}
	}
	z.TaskClass = cmp.Or(sub.TaskClass, s.class(w, &z))
	return z
}

func (s *Sizer) rule(class string) *Rule {
	i := slices.IndexFunc(s.rules, func(r Rule) bool { return matches(r.Node, class) })
	if i < 0 {
		return nil
	}
	return &s.rules[i]
}

func matches(pattern, name string) bool {
	ok, err := path.Match(pattern, name)
	return ok && err == nil
}

// literal reads a positive number of a workflow, which may be written as text; known is true for 0 and
// numbers below it too, as which the value is 0. The server may read texts as numbers that are none here.
func literal(v protocol.Input) (value float64, known bool) {
	f, err := strconv.ParseFloat(strings.TrimSpace(v.Value), 64)
	switch {
	case err != nil || math.IsNaN(f) || f >= 1<<31:
		return 0, false
	case f <= 0:
		return 0, true
	}
	return f, true
}

const patternRemedy = "*, ? and [a-z] have a meaning in patterns; write \\[ for a bracket"

// Validate adds the rule's mistakes; key is its path in the configuration.
func (r *Rule) Validate(p *configkeys.Problems, key string) {
	_, err := path.Match(r.Node, "")
	p.AddIf(r.Node == "", key+"::node", nil, "is empty", "use a node class, for example EmptyLatentImage, or a pattern, for example KSampler*")
	p.AddIf(err != nil, key+"::node", r.Node, "is not a valid pattern", patternRemedy)
	p.AddIf(
		r.Size != "" && (r.Width != "" || r.Height != ""),
		key,
		nil,
		"size cannot be combined with width or height",
		"size names one input for both, so remove it or the others",
	)
	p.AddIf(*r == (Rule{Node: r.Node}), key, nil, "the rule names no input", "set size, width and height, batch, model or steps")
}

// Validate adds the class's mistakes; key is its path in the configuration.
func (c *TaskClass) Validate(p *configkeys.Problems, key string) {
	p.AddIf(c.Name == "", key+"::name", nil, "is empty", "give the class a name")
	p.AddIf(c.MinSide < 0, key+"::min_side", c.MinSide, "is negative", "use a number of pixels, or 0 for no bound")
	p.AddIf(c.MaxSide < 0, key+"::max_side", c.MaxSide, "is negative", "use a number of pixels, or 0 for no bound")
	p.AddIf(c.MaxSide > 0 && c.MinSide > c.MaxSide, key+"::min_side", c.MinSide, "is greater than max_side", "swap the two, or leave one out")
	for _, pattern := range [][2]string{{"model", c.Model}, {"node", c.Node}} {
		_, err := path.Match(pattern[1], "")
		p.AddIf(err != nil, key+"::"+pattern[0], pattern[1], "is not a valid pattern", patternRemedy)
	}
}
