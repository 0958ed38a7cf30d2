// SPDX-License-Identifier: Apache-2.0

package fakecomfyui

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Work is what nodes do besides sending messages about it.
type Work interface {
	// Colorize works on one photo: step is called after each of its steps, and ends
	// the work with an error if the prompt is interrupted.
	Colorize(ctx context.Context, side int, checkpoint string, step func(done, all int) error) error
	// Sample denoises latent images with a checkpoint, Decode makes images of them. The model
	// is under ComfyUI's management.
	Sample(ctx context.Context, checkpoint string, side, batch, steps int, step func(done, all int) error) error
	Decode(ctx context.Context, checkpoint string, side, batch int) error
	// DecodeTiled does the same in tiles, after Decode has run out of memory.
	DecodeTiled(ctx context.Context, checkpoint string, side, batch int, step func(done, all int) error) error
	// Free gives memory back (/free). Collect may give back what is not needed; it is
	// called when a prompt has ended.
	Free()
	Collect()
	// Memory is the device's memory as the server sees it, in bytes.
	Memory() Memory
}

// Memory is a device's memory in /system_stats.
type Memory struct{ Total, Free, TorchTotal, TorchFree int64 }

// Failure is an exception of a node.
type Failure struct {
	Type, Message string
	Traceback     []string
}

func (f *Failure) Error() string { return f.Type + ": " + f.Message }

// input describes one required input of a class.
type input struct {
	name string
	kind string // IMAGE, INT, FLOAT, STRING; empty: one of choices
	// choices and options are listed in /object_info and in validation errors.
	choices []string
	options map[string]any
	low     float64
	bounded bool
}

// class is one kind of node.
type class struct {
	name, display, category string
	inputs                  []input
	outputs                 []string
	outputNames             []string
	lists                   []bool
	output, async           bool
	lazy                    []string // inputs that are executed only if the node asks for them
}

var colorizeInputs = []input{
	{name: "image", kind: "IMAGE"},
	{name: "model_input_size", kind: "INT", options: map[string]any{"default": 512, "min": 0, "max": json.Number("18446744073709551615"), "step": 1}, bounded: true},
	{name: "checkpoint", choices: []string{"ddcolor_paper_tiny.pth", "ddcolor_paper.pth", "ddcolor_modelscope.pth", "ddcolor_artistic.pth"}, options: map[string]any{"default": "ddcolor_paper.pth"}},
}

// classes are the nodes that the server knows.
var classes = map[string]*class{
	"LoadImage": {
		name: "LoadImage", display: "Load Image", category: "image", outputs: []string{"IMAGE", "MASK"}, outputNames: []string{"IMAGE", "MASK"}, lists: []bool{false, false},
		inputs: []input{{name: "image", choices: []string{"buildings.png", "people.png"}, options: map[string]any{"image_upload": true}}},
	},
	"DDColor_Colorize": {
		name: "DDColor_Colorize", display: "DDColor_Colorize", category: "DDColor", outputs: []string{"IMAGE"}, outputNames: []string{"colorized_image"}, lists: []bool{false}, inputs: colorizeInputs,
	},
	"SaveImage": {
		name: "SaveImage", display: "Save Image", category: "image", output: true, lists: []bool{}, outputs: []string{}, outputNames: []string{},
		inputs: []input{{name: "images", kind: "IMAGE"}, {name: "filename_prefix", kind: "STRING", options: map[string]any{"default": "ComfyUI"}}},
	},
	"SlowAsync": {
		name: "SlowAsync", display: "SlowAsync", category: "test", async: true, outputs: []string{"IMAGE"}, outputNames: []string{"IMAGE"}, lists: []bool{false},
		inputs: []input{{name: "image", kind: "IMAGE"}, {name: "seconds", kind: "FLOAT", bounded: true}},
	},
	"Expanding": {
		name: "Expanding", display: "Expanding", category: "test", outputs: []string{"IMAGE"}, outputNames: []string{"IMAGE"}, lists: []bool{false},
		inputs: []input{{name: "image", kind: "IMAGE"}, {name: "copies", kind: "INT", bounded: true}},
	},
	"WithPreview": {
		name: "WithPreview", display: "WithPreview", category: "test", outputs: []string{"IMAGE"}, outputNames: []string{"IMAGE"}, lists: []bool{false},
		inputs: []input{{name: "image", kind: "IMAGE"}, {name: "steps", kind: "INT", bounded: true}},
	},
	"ListOut": {
		name: "ListOut", display: "ListOut", category: "test", outputs: []string{"IMAGE"}, outputNames: []string{"IMAGE"}, lists: []bool{true},
		inputs: []input{{name: "image", kind: "IMAGE"}, {name: "n", kind: "INT", bounded: true}},
	},
	// Those of a workflow whose model is under ComfyUI's management. They validate less than
	// the real ones.
	"CheckpointLoaderSimple": {
		name: "CheckpointLoaderSimple", display: "Load Checkpoint", category: "loaders", outputs: []string{"MODEL", "CLIP", "VAE"}, outputNames: []string{"MODEL", "CLIP", "VAE"},
		lists: []bool{false, false, false}, inputs: []input{{name: "ckpt_name", choices: []string{"dreamshaper_8.safetensors", "sd_xl_base_1.0.safetensors", "sd_xl_refiner_1.0.safetensors", "v1-5-pruned-emaonly-fp16.safetensors"}}},
	},
	"CLIPTextEncode": {
		name: "CLIPTextEncode", display: "CLIP Text Encode (Prompt)", category: "conditioning", outputs: []string{"CONDITIONING"}, outputNames: []string{"CONDITIONING"}, lists: []bool{false},
		inputs: []input{{name: "text", kind: "STRING"}, {name: "clip", kind: "CLIP"}},
	},
	"EmptyLatentImage": {
		name: "EmptyLatentImage", display: "Empty Latent Image", category: "latent", outputs: []string{"LATENT"}, outputNames: []string{"LATENT"}, lists: []bool{false},
		inputs: []input{
			{name: "width", kind: "INT", low: 16, bounded: true},
			{name: "height", kind: "INT", low: 16, bounded: true},
			{name: "batch_size", kind: "INT", low: 1, bounded: true},
		},
	},
	"KSampler": {
		name: "KSampler", display: "KSampler", category: "sampling", outputs: []string{"LATENT"}, outputNames: []string{"LATENT"}, lists: []bool{false},
		inputs: []input{
			{name: "model", kind: "MODEL"},
			{name: "seed", kind: "INT", bounded: true},
			{name: "steps", kind: "INT", low: 1, bounded: true},
			{name: "cfg", kind: "FLOAT", bounded: true},
			{name: "sampler_name", choices: []string{"euler", "dpmpp_2m"}},
			{name: "scheduler", choices: []string{"normal", "karras"}},
			{name: "positive", kind: "CONDITIONING"},
			{name: "negative", kind: "CONDITIONING"},
			{name: "latent_image", kind: "LATENT"},
			{name: "denoise", kind: "FLOAT", bounded: true},
		},
	},
	"VAEDecode": {
		name: "VAEDecode", display: "VAE Decode", category: "latent", outputs: []string{"IMAGE"}, outputNames: []string{"IMAGE"}, lists: []bool{false},
		inputs: []input{{name: "samples", kind: "LATENT"}, {name: "vae", kind: "VAE"}},
	},
	// Those of the recordings of 0.33.0.
	"Blocking": {
		name: "Blocking", display: "Blocking", category: "test", outputs: []string{"IMAGE"}, outputNames: []string{"IMAGE"}, lists: []bool{false},
		inputs: []input{{name: "image", kind: "IMAGE"}, {name: "message", kind: "STRING"}, {name: "block", kind: "BOOLEAN"}},
	},
	"LazySwitch": {
		name: "LazySwitch", display: "LazySwitch", category: "test", outputs: []string{"IMAGE"}, outputNames: []string{"IMAGE"}, lists: []bool{false}, lazy: []string{"a", "b"},
		inputs: []input{{name: "which", kind: "INT", bounded: true}, {name: "a", kind: "IMAGE"}, {name: "b", kind: "IMAGE"}},
	},
	"Loop": {
		name: "Loop", display: "Loop", category: "test", outputs: []string{"IMAGE"}, outputNames: []string{"IMAGE"}, lists: []bool{false},
		inputs: []input{{name: "image", kind: "IMAGE"}, {name: "n", kind: "INT", bounded: true}, {name: "size", kind: "INT", bounded: true}},
	},
	"TextOut": {
		name: "TextOut", display: "TextOut", category: "test", output: true, lists: []bool{}, outputs: []string{}, outputNames: []string{},
		inputs: []input{{name: "image", kind: "IMAGE"}},
	},
	"Raiser": {
		name: "Raiser", display: "Raiser", category: "test", outputs: []string{"IMAGE"}, outputNames: []string{"IMAGE"}, lists: []bool{false},
		inputs: []input{{name: "image", kind: "IMAGE"}, {name: "what", kind: "STRING"}},
	},
}

// config is an input as /object_info and errors show it.
func (i *input) config() []any {
	var kind any = i.kind
	if i.kind == "" {
		kind = i.choices
	}
	if i.options == nil {
		return []any{kind}
	}
	return []any{kind, i.options}
}

// info is a class as /object_info shows it.
func (c *class) info(newer bool) map[string]any {
	required, order := map[string]any{}, make([]string, 0, len(c.inputs))
	for n := range c.inputs {
		required[c.inputs[n].name] = c.inputs[n].config()
		order = append(order, c.inputs[n].name)
	}
	all := map[string]any{
		"input": map[string]any{"required": required}, "input_order": map[string]any{"required": order},
		"output": c.outputs, "output_is_list": c.lists, "output_name": c.outputNames, "name": c.name, "display_name": c.display,
		"description": "", "python_module": "nodes", "category": c.category, "output_node": c.output,
	}
	if newer {
		all["is_input_list"], all["has_intermediate_output"], all["search_aliases"] = false, false, []string{}
	}
	return all
}

// problem is one validation error of a node.
type problem struct {
	Type    string         `json:"type"`
	Message string         `json:"message"`
	Details string         `json:"details"`
	Extra   map[string]any `json:"extra_info"`
}

// check validates one input's value.
func (i *input) check(v any, given bool) *problem {
	if !given {
		return &problem{"required_input_missing", "Required input is missing", i.name, map[string]any{"input_name": i.name}}
	}
	if isLink(v) {
		return nil
	}
	if i.choices != nil {
		if text, ok := v.(string); ok && slices.Contains(i.choices, text) {
			return nil
		}
		return &problem{
			"value_not_in_list", "Value not in list", fmt.Sprintf("%s: '%v' not in ['%s']", i.name, v, strings.Join(i.choices, "', '")),
			map[string]any{"input_name": i.name, "input_config": i.config(), "received_value": v},
		}
	}
	if n, ok := v.(json.Number); ok && i.bounded {
		if f, err := n.Float64(); err == nil && f < i.low {
			return &problem{
				"value_smaller_than_min", fmt.Sprintf("Value %v smaller than min of %v", v, i.low), i.name,
				map[string]any{"input_name": i.name, "input_config": i.config(), "received_value": v},
			}
		}
	}
	return nil
}

func isLink(v any) bool {
	list, ok := v.([]any)
	return ok && len(list) == 2
}

// timedWork replaces a GPU: its steps take time in proportion to the number of pixels,
// and sides of 2,048 pixels and more run out of memory.
type timedWork struct{}

// NewTimedWork is a Work without a GPU, for tests.
func NewTimedWork() Work { return timedWork{} }

func (timedWork) Colorize(ctx context.Context, side int, checkpoint string, step func(done, all int) error) error {
	if err := inSteps(ctx, time.Duration(float64(side*side)*7.6e-7*float64(time.Second)), step); err != nil {
		return err
	}
	switch {
	case side >= 2048:
		return OutOfMemory(3<<30, 12<<30)
	case checkpoint == "ddcolor_artistic.pth":
		return &Failure{Type: "FileNotFoundError", Message: "Checkpoint load failed.\n", Traceback: traceback("raise FileNotFoundError(\"Checkpoint load failed.\")")}
	}
	return nil
}

// stepTime is how long a step of the sampler takes for a megapixel without a GPU.
const stepTime = 50 * time.Millisecond

func (timedWork) Sample(ctx context.Context, _ string, side, batch, steps int, step func(done, all int) error) error {
	return waitSteps(ctx, time.Duration(float64(side*side*batch*steps)/1e6*float64(stepTime)), steps, step)
}

func (timedWork) Decode(ctx context.Context, _ string, side, batch int) error {
	return waitSteps(ctx, time.Duration(float64(side*side*batch)/1e6*float64(stepTime)), 1, func(int, int) error { return nil })
}

func (timedWork) DecodeTiled(ctx context.Context, _ string, side, batch int, step func(done, all int) error) error {
	return waitSteps(ctx, time.Duration(2*float64(side*side*batch)/1e6*float64(stepTime)), 6, step)
}

func (timedWork) Free()          {}
func (timedWork) Collect()       {}
func (timedWork) Memory() Memory { return Memory{25276502016, 24738656256, 25276502016, 24738656256} }

// inSteps waits in four steps, and calls step after each.
func inSteps(ctx context.Context, lasts time.Duration, step func(done, all int) error) error {
	return waitSteps(ctx, lasts, 4, step)
}

func waitSteps(ctx context.Context, lasts time.Duration, steps int, step func(done, all int) error) error {
	for i := range steps {
		timer := time.NewTimer(lasts / time.Duration(steps))
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
		if err := step(i+1, steps); err != nil {
			return err
		}
	}
	return nil
}

// The types of torch's exception when a GPU has no room, before 2.5 and since.
const (
	olderOutOfMemory = "torch.cuda.OutOfMemoryError"
	newerOutOfMemory = "torch.OutOfMemoryError"
)

// OutOfMemory is torch's exception when a GPU of so many bytes has no room for what
// is asked.
func OutOfMemory(asked, total int64) error {
	const gib = 1 << 30
	text := fmt.Sprintf("CUDA out of memory. Tried to allocate %.2f GiB (GPU 0; %.2f GiB total capacity)\n", float64(asked)/gib, float64(total)/gib)
	return &Failure{Type: olderOutOfMemory, Message: text, Traceback: traceback("raise mm.OOM_EXCEPTION(…)")}
}

// traceback has the depth of a real one, and lines of this program's own.
func traceback(last string) []string {
	return []string{
		"  File \"execution.py\", line 496, in execute\n    get_output_data(…)\n", "  File \"execution.py\", line 315, in get_output_data\n    _async_map_node_over_list(…)\n",
		"  File \"execution.py\", line 289, in _async_map_node_over_list\n    process_inputs(…)\n", "  File \"execution.py\", line 277, in process_inputs\n    f(**inputs)\n",
		"  File \"simulation\", in process\n    " + last + "\n",
	}
}
