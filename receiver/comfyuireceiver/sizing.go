// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

// SizingRule says which inputs of a node tell a prompt's size, model and steps.
type SizingRule struct {
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

// TaskClass names a class of prompts by what they have in common. The first that
// fits is a prompt's; extra_data.task_class of the request goes before them all.
type TaskClass struct {
	Name string `mapstructure:"name"`
	// MinSide and MaxSide bound the longer side in pixels; 0: no bound.
	MinSide int `mapstructure:"min_side"`
	MaxSide int `mapstructure:"max_side"`
	// Model and Node are patterns (path.Match) of the model and of a node's class.
	Model string `mapstructure:"model"`
	Node  string `mapstructure:"node"`
}

// builtInSizing are the rules for well-known nodes. A rule of the configuration
// for the same class goes before.
var builtInSizing = []SizingRule{
	{Node: "DDColor_Colorize", Size: "model_input_size", Model: "checkpoint"},
	{Node: "DDColor-ddcolorize", Size: "size", Model: "model"},
	{Node: "EmptyLatentImage", Width: "width", Height: "height", Batch: "batch_size"},
	{Node: "EmptySD3LatentImage", Width: "width", Height: "height", Batch: "batch_size"},
	{Node: "KSampler*", Steps: "steps"},
	{Node: "CheckpointLoader*", Model: "ckpt_name"},
	{Node: "UNETLoader", Model: "unet_name"},
	{Node: "UpscaleModelLoader", Model: "model_name"},
}

// builtInClasses are those of the photo service: people at 460 to 680 pixels,
// buildings at 960 to 1280.
var builtInClasses = []TaskClass{
	{Name: "people", MinSide: 1, MaxSide: 680, Node: "DDColor*"},
	{Name: "buildings", MinSide: 960, Node: "DDColor*"},
}

// other is the class of what fits none, and what stands for names beyond a bound.
const other = "other"

// sizing is what a workflow says about its own cost.
type sizing struct {
	width, height, batch, steps float64
	model, taskClass            string
}

// side is the longer side in pixels.
func (s *sizing) side() float64 { return max(s.width, s.height) }

// sizer reads sizes from workflows.
type sizer struct {
	rules   []SizingRule
	classes []TaskClass
}

func newSizer(rules []SizingRule, classes []TaskClass) *sizer {
	s := &sizer{rules: append(append([]SizingRule{}, rules...), builtInSizing...), classes: classes}
	if len(classes) == 0 {
		s.classes = builtInClasses
	}
	return s
}

// of reads a submission. Of several nodes that tell a size the largest counts, of
// several models the first; steps add up.
func (s *sizer) of(sub *protocol.Submission) (z sizing) {
	for i := range sub.Nodes {
		n := &sub.Nodes[i]
		rule := s.rule(n.Class)
		if rule == nil {
			continue
		}
		w, h := number(n.Inputs[rule.Width]), number(n.Inputs[rule.Height])
		if rule.Size != "" {
			w = number(n.Inputs[rule.Size])
			h = w
		}
		if w*h > z.width*z.height {
			z.width, z.height = w, h
		}
		z.batch = max(z.batch, number(n.Inputs[rule.Batch]))
		z.steps += number(n.Inputs[rule.Steps])
		if model, ok := n.Inputs[rule.Model].(string); ok && z.model == "" {
			z.model = model
		}
	}
	z.taskClass = cmp.Or(sub.TaskClass, s.class(sub, &z))
	return z
}

func (s *sizer) rule(class string) *SizingRule {
	for i := range s.rules {
		if matches(s.rules[i].Node, class) {
			return &s.rules[i]
		}
	}
	return nil
}

func (s *sizer) class(sub *protocol.Submission, z *sizing) string {
	for i := range s.classes {
		c := &s.classes[i]
		if c.MinSide > 0 && z.side() < float64(c.MinSide) || c.MaxSide > 0 && z.side() > float64(c.MaxSide) {
			continue
		}
		if c.Model != "" && !matches(c.Model, z.model) || c.Node != "" && !hasNode(sub, c.Node) {
			continue
		}
		return c.Name
	}
	return other
}

func hasNode(sub *protocol.Submission, pattern string) bool {
	for i := range sub.Nodes {
		if matches(pattern, sub.Nodes[i].Class) {
			return true
		}
	}
	return false
}

func matches(pattern, name string) bool {
	ok, err := path.Match(pattern, name)
	return ok && err == nil
}

// number reads a number of a workflow, which may stand as text; a link or anything
// else is 0, and so is what no image can have.
func number(v any) float64 {
	var text string
	switch x := v.(type) {
	case json.Number:
		text = x.String()
	case string:
		text = strings.TrimSpace(x)
	default:
		return 0
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || !(f > 0 && f < 1<<31) {
		return 0
	}
	return f
}

func (r *SizingRule) validate(key string) error {
	var errs []error
	if r.Node == "" {
		errs = append(errs, fmt.Errorf("%s::node: it is empty: give a node's class such as EmptyLatentImage, or a pattern such as KSampler*", key))
	}
	if _, err := path.Match(r.Node, ""); err != nil {
		errs = append(errs, fmt.Errorf("%s::node: %q is no pattern: *, ? and [a-z] have a meaning; write \\[ for a bracket", key, r.Node))
	}
	if r.Size != "" && (r.Width != "" || r.Height != "") {
		errs = append(errs, fmt.Errorf("%s: size and width or height are given: size names one input for both, so remove it or the others", key))
	}
	if *r == (SizingRule{Node: r.Node}) {
		errs = append(errs, fmt.Errorf("%s: the rule for %q names no input: give size, width and height, batch, model or steps", key, r.Node))
	}
	return errors.Join(errs...)
}

func (c *TaskClass) validate(key string) error {
	var errs []error
	if c.Name == "" {
		errs = append(errs, fmt.Errorf("%s::name: it is empty: give the class a name", key))
	}
	if c.MinSide < 0 || c.MaxSide < 0 || c.MaxSide > 0 && c.MinSide > c.MaxSide {
		errs = append(errs, fmt.Errorf("%s: min_side %d and max_side %d fit no image: give pixels, the smaller first, or leave one out", key, c.MinSide, c.MaxSide))
	}
	for name, pattern := range map[string]string{"model": c.Model, "node": c.Node} {
		if _, err := path.Match(pattern, ""); err != nil {
			errs = append(errs, fmt.Errorf("%s::%s: %q is no pattern: *, ? and [a-z] have a meaning", key, name, pattern))
		}
	}
	return errors.Join(errs...)
}
