// SPDX-License-Identifier: Apache-2.0

// One goroutine judges pixels here, with the race detector ten times as slowly.
//go:build !race

package inputs

import (
	"flag"
	"fmt"
	"image"
	"maps"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
)

var (
	imageCount = flag.Int("images", 20, "how many images are judged")
	largeSide  = flag.Int("large-side", 800, "the longer side of a quarter of them, in pixels: 4000 makes 12 megapixels")
	strict     = flag.Bool("strict", false, "with the product's limit of time, in processor time of this process: other processes do not count")
)

// generated is an image whose faults are known by how it was made.
type generated struct {
	kind   string
	width  int
	height int
	file   []byte
	faults []Finding
}

// generate makes an image of a kind; large ones have 3 : 4.
func generate(t testing.TB, random *rand.Rand, kind string, large bool) (g generated) {
	t.Helper()
	g = generated{kind: kind, width: 520 + random.IntN(500)}
	g.height = g.width * (60 + random.IntN(30)) / 100
	if large {
		g.width, g.height = *largeSide, *largeSide*3/4
	}
	s := newScene(random, g.width)
	s.noise = 4 + 4*random.Float64()
	quality, asPNG, oneChannel := 75+random.IntN(20), random.IntN(2) == 0, false
	switch kind {
	case "colours":
		s.saturation, g.faults = 30+50*random.Float64(), []Finding{Coloured}
	case "faded":
		s.saturation, s.tone, g.faults = 25+10*random.Float64(), [2]float64{-10, 5}, []Finding{Coloured}
	case "grey":
		oneChannel = random.IntN(2) == 0
	case "sepia":
		s.tone, s.stain = sepia, random.IntN(2) == 0
	case "cyanotype":
		s.tone = [2]float64{20, -25}
	case "small":
		g.width, g.height, g.faults = 200+random.IntN(150), 150+random.IntN(100), []Finding{TooSmall}
	case "narrow":
		g.height, g.faults = 400, []Finding{Aspect}
		g.width = 400 * (9 + random.IntN(8)) / 2
	case "compressed":
		s.noise, quality, asPNG, g.faults = 1, 1, false, []Finding{Compressed}
	}
	var m image.Image = s.draw(g.width, g.height)
	if oneChannel {
		m = gray(m.(*image.RGBA))
	}
	if asPNG {
		g.file = encodePNG(t, m)
	} else {
		g.file = encodeJPEG(t, m, quality)
	}
	return g
}

// processorTime is what all threads of this process have used.
func processorTime(t testing.TB) time.Duration {
	t.Helper()
	var u syscall.Rusage
	require.NoError(t, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestPoorInputIsFound judges generated images, of which a quarter is large, as uploads are, and bombs
// among them. make bench-input runs it with 200 images, of 12 megapixels each fourth.
func TestPoorInputIsFound(t *testing.T) {
	checks := Checks{MinSide: 300, MaxSide: 6000, MaxAspect: 4, MinBytesPerPixel: minBytesPerPixel, MaxChroma: maxChroma}
	random := rand.New(rand.NewPCG(20, 26))
	kinds := []string{"colours", "grey", "faded", "sepia", "compressed", "cyanotype", "colours", "grey", "small", "narrow"}
	i, counted := newTestInspector(t, func(s *Settings) { s.UploadBytes, s.AllBytes = 64<<20, 64<<20 })
	if *strict {
		i.limits.Time, i.limits.Now = maxTime, func() time.Time { return time.Unix(0, 0).Add(processorTime(t)) }
	}
	right, unjudged, dearest, longest, busiest := 0, 0, int64(0), time.Duration(0), time.Duration(0)
	judge := func(file []byte) Facts {
		c := i.Copy(upload(t, file))
		pass(t, c)
		began, used := time.Now(), processorTime(t)
		dearest = max(dearest, allocated(func() {
			c.Stored("a", "", "")
			counted.wait(t, 1)
		}))
		longest, busiest = max(longest, time.Since(began)), max(busiest, processorTime(t)-used)
		return i.Find(NameOfInput("a"))
	}
	for n := range *imageCount {
		kind := kinds[n%len(kinds)]
		large := n%4 == 0 && kind != "small" && kind != "narrow"
		if n%4 == 0 && !large {
			kind, large = "sepia", true
		}
		g := generate(t, random, kind, large)
		f := judge(g.file)
		found, why := checks.Findings(&f)
		if why != "" {
			unjudged++
			t.Logf("%s of %d × %d, %d bytes: %s", g.kind, g.width, g.height, len(g.file), why)
		}
		if slices.Equal(found, g.faults) && why == "" {
			right++
		} else {
			t.Logf("%s of %d × %d, %d bytes: %v, not %v: %+v", g.kind, g.width, g.height, len(g.file), found, g.faults, f)
		}
	}
	bombsJudged := 0
	all := bombs(t)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if f := judge(all[name]); f.Unjudged == "" {
			bombsJudged++
			t.Logf("%s: %+v", name, f)
		}
	}
	share := 100 * float64(right) / float64(*imageCount)
	figure.AtLeast("input.right", share, "%", 95)
	figure.AtMost("input.unjudged", float64(unjudged), "images", 0)
	figure.AtMost("input.bombs_judged", float64(bombsJudged), fmt.Sprintf("of_%d_bombs", len(all)), 0)
	figure.AtMost("input.dearest", float64(dearest)/(1<<20), "MiB", (maxMemory+beside)/(1<<20))
	if *strict {
		figure.AtMost("input.longest.processor", busiest.Seconds(), "s", maxTime.Seconds())
	}
	figure.Print("input.longest", longest.Seconds(), "s")
	assert.GreaterOrEqual(t, share, 95.0)
	assert.Zero(t, unjudged)
	assert.Zero(t, bombsJudged)
	assert.LessOrEqual(t, dearest, int64(maxMemory+beside))
	require.Positive(t, *imageCount)
}
