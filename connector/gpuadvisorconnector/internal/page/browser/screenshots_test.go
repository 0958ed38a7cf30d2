// SPDX-License-Identifier: Apache-2.0

package browser

import (
	"bytes"
	"flag"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

var screenshots = flag.String("screenshots", "", "the folder for a screenshot of each state")

// shot is a screenshot.
type shot struct {
	name  string
	scene string
	path  string
	shape shape
	// ready is what is waited for.
	ready string
	// isLost is true if the collector ends before the screenshot.
	isLost bool
	// token is typed at the sign-in, which is left empty for "-".
	token string
	// isPlain is true if the browser runs no scripts.
	isPlain bool
	// isWhole is true if the screenshot has all of the page, not only what a window has room for.
	isWhole bool
}

var (
	wide  = shape{1280, 800, "en", false}
	phone = shape{360, 780, "en", false}
)

var shots = []shot{
	{name: "one-gpu", scene: "1", shape: wide},
	{name: "one-gpu-dark-zh", scene: "1", shape: shape{1280, 800, "zh", true}},
	{name: "eight-gpus", scene: "8", shape: wide},
	{name: "eight-gpus-zh", scene: "8", shape: shape{1280, 800, "zh", false}},
	{name: "eight-gpus-dark", scene: "8", shape: shape{1280, 800, "en", true}},
	{name: "many-gpus", scene: "64", shape: wide},
	{name: "rush", scene: "rush", shape: wide, isWhole: true},
	{name: "lost-gpu", scene: "lost", shape: wide},
	{name: "samples-stopped", scene: "stopped", shape: wide},
	{name: "comfyui-down", scene: "down", shape: wide},
	{name: "no-gpu", scene: "no-gpu", shape: wide},
	{name: "no-comfyui", scene: "no-comfyui", shape: wide},
	{name: "no-prompt", scene: "no-prompt", shape: wide},
	{name: "prompt-slow", scene: "8", path: "/prompts/9f3a1c52-7d40-4b6e-8a11-2c5d7e9b0001", shape: wide, ready: `.waterfall .lane svg`, isWhole: true},
	{name: "prompt-failed", scene: "8", path: "/prompts/9f3a1c52-7d40-4b6e-8a11-2c5d7e9b0003", shape: wide, ready: `.waterfall`},
	{name: "prompt-failed-zh", scene: "8", path: "/prompts/9f3a1c52-7d40-4b6e-8a11-2c5d7e9b0003", shape: shape{1280, 800, "zh", false}, ready: `.waterfall`},
	{name: "prompt-refused", scene: "refused", path: "/prompts/refused-1", shape: wide, ready: `.part-list`},
	{name: "prompt-without-bill", scene: "8", path: "/prompts/9f3a1c52-7d40-4b6e-8a11-2c5d7e9b0007", shape: shape{1280, 800, "en", true}, ready: `.waterfall`},
	{name: "prompt-retried", scene: "8", path: "/prompts/9f3a1c52-7d40-4b6e-8a11-2c5d7e9b0008", shape: shape{1280, 800, "en", true}, ready: `.waterfall`},
	{name: "prompt-waiting", scene: "rush", path: "/prompts/open-8188-4", shape: wide, ready: `.sentence`},
	{name: "prompt-unknown", scene: "8", path: "/prompts/none", shape: wide, ready: `.sentence + .id`},
	{name: "queue", scene: "rush", path: "/?queue=127.0.0.1:8188", shape: wide, ready: `.whole .open:nth-child(18)`},
	{name: "gpu", scene: "8", path: "/?gpu=gpu1", shape: wide, ready: `.chart canvas`, isWhole: true},
	{name: "gpu-dark-zh", scene: "8", path: "/?gpu=gpu1", shape: shape{1280, 800, "zh", true}, ready: `.chart canvas`},
	{name: "slowest", scene: "8", path: "/?view=prompts&sort=slowest", shape: wide, ready: `.workflows`, isWhole: true},
	{name: "phone", scene: "8", shape: phone},
	{name: "phone-zh-dark", scene: "rush", shape: shape{360, 780, "zh", true}},
	{name: "phone-prompt", scene: "8", path: "/prompts/9f3a1c52-7d40-4b6e-8a11-2c5d7e9b0001", shape: phone, ready: `.waterfall`, isWhole: true},
	{name: "missing-figures", scene: "odd", shape: wide},
	{name: "missing-figures-phone-zh", scene: "odd", shape: shape{360, 780, "zh", false}},
	{name: "missing-figures-gpu", scene: "odd", path: "/?gpu=GPU-bare", shape: wide, ready: `#history + .empty`},
	{name: "connection-lost", scene: "1", shape: wide, ready: `.band.lost`, isLost: true},
	{name: "sign-in", scene: "1", shape: wide, token: "-", ready: `#token`},
	{name: "sign-in-wrong-token", scene: "1", shape: wide, token: "wrong", ready: `[role=alert]`},
	{name: "sign-in-wrong-token-phone-zh-dark", scene: "1", shape: shape{360, 780, "zh", true}, token: "wrong", ready: `[role=alert]`},
	{name: "without-scripts", scene: "8", shape: wide, isPlain: true, ready: `.plain table`},
	{name: "without-scripts-phone-zh-dark", scene: "8", path: "/prompts/9f3a1c52-7d40-4b6e-8a11-2c5d7e9b0001", shape: shape{360, 780, "zh", true}, isPlain: true, ready: `.plain table`},
	{name: "tablet", scene: "8", shape: shape{768, 1024, "en", false}},
}

// TestScreenshots writes the screenshots of the documentation: make page-screenshots, or some of them by
// their names, -run 'TestScreenshots/^(queue|rush)$'. Each has a tab of its own.
func TestScreenshots(t *testing.T) {
	if *screenshots == "" {
		t.Skip("-screenshots is not set")
	}
	chromium := startChromium(t)
	for _, s := range shots {
		t.Run(s.name, func(t *testing.T) {
			p := openTab(t, chromium)
			p.show(s)
			if s.isLost {
				p.wait(`/for ([5-9]|\d\d)\s/.test(document.querySelector('.band.lost').innerText)`)
			}
			if s.isWhole {
				p.makeRoom(s.shape)
			}
			require.NoError(t, os.WriteFile(filepath.Join(*screenshots, s.name+".png"), small(t, p.capture()), 0o600))
		})
	}
}

// show opens what a screenshot shows.
func (p *tab) show(s shot) {
	p.t.Helper()
	p.reshape(s.shape)
	f := newFixture(p.t, sceneOf(s.scene))
	switch {
	case s.token != "":
		_, base := serveWithToken(p.t, f)
		p.visit(withLanguage(base, s.path, s.shape.language))
		p.wait(`document.querySelector('#token') !== null`)
		if s.token != "-" {
			p.do(chromedp.SendKeys(`#token`, s.token+"\n"))
		}
	case s.isPlain:
		p.runScripts(false)
		p.visit(withLanguage(serveFixture(p.t, f), s.path, s.shape.language))
	default:
		base, stop := serveFor(f)
		p.t.Cleanup(stop)
		p.open(withLanguage(base, s.path, s.shape.language))
		if s.isLost {
			stop()
		}
	}
	p.await(s.ready)
}

// makeRoom makes the window as high as the page, which may be wider or narrower then.
func (p *tab) makeRoom(s shape) {
	p.t.Helper()
	for s.height < read[int64](p, `document.scrollingElement.scrollHeight`) {
		s.height = read[int64](p, `document.scrollingElement.scrollHeight`)
		p.reshape(s)
	}
}

// await waits for an element of a selector, if there is one.
func (p *tab) await(selector string) {
	p.t.Helper()
	if selector != "" {
		p.wait("document.querySelector(`" + selector + "`) !== null")
	}
}

// small stores an image with a palette of its most frequent colours.
func small(t *testing.T, raw []byte) []byte {
	t.Helper()
	full, err := png.Decode(bytes.NewReader(raw))
	require.NoError(t, err)
	counts := map[color.Color]int{}
	b := full.Bounds()
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			counts[full.At(x, y)]++
		}
	}
	palette := make(color.Palette, 0, len(counts))
	for c := range counts {
		palette = append(palette, c)
	}
	slices.SortFunc(palette, func(a, b color.Color) int { return counts[b] - counts[a] })
	palette = palette[:min(256, len(palette))]
	nearest := map[color.Color]uint8{}
	flat := image.NewPaletted(b, palette)
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			c := full.At(x, y)
			i, ok := nearest[c]
			if !ok {
				i = uint8(palette.Index(c))
				nearest[c] = i
			}
			flat.SetColorIndex(x, y, i)
		}
	}
	var out bytes.Buffer
	encoder := png.Encoder{CompressionLevel: png.BestCompression}
	require.NoError(t, encoder.Encode(&out, flat))
	return out.Bytes()
}

// TestEachStateHasItsScreenshot under docs, and docs has no other.
func TestEachStateHasItsScreenshot(t *testing.T) {
	t.Parallel()
	names := make([]string, 0, len(shots))
	for _, s := range shots {
		names = append(names, s.name+".png")
	}
	entries, err := os.ReadDir(filepath.Join("..", "..", "..", "..", "..", "docs", "images", "page"))
	require.NoError(t, err)
	files := make([]string, 0, len(entries))
	for _, e := range entries {
		files = append(files, e.Name())
	}
	require.ElementsMatch(t, names, files)
	for _, state := range []string{"no-gpu", "lost-gpu", "no-comfyui", "no-prompt", "samples-stopped", "connection-lost", "prompt-without-bill"} {
		require.Contains(t, names, state+".png", "a state in which something is absent")
	}
}
