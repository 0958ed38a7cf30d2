// SPDX-License-Identifier: Apache-2.0

package browser

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var makeRun = flag.String("make-run", "", "address of the page of a make run, for TestScreenshotsOfMakeRun, such as http://127.0.0.1:8890")

// TestScreenshotsOfMakeRun goes the README's way through a make run, and writes its
// screenshots: make run-screenshots. The alert takes a minute, so its patience is its own.
func TestScreenshotsOfMakeRun(t *testing.T) {
	if *makeRun == "" || *screenshots == "" {
		t.Skip("-make-run and -screenshots are not set")
	}
	p := openTab(t, startChromium(t))
	save := func(name string) {
		require.NoError(t, os.WriteFile(filepath.Join(*screenshots, name+".png"), small(t, p.capture()), 0o600))
	}
	p.reshape(wide)
	p.open(*makeRun + "/?lang=en")
	p.do(chromedp.Click(`.tools button.chip`))
	p.wait(`document.querySelectorAll('.all-queues .open').length >= 4`)
	save("rush-page")
	for end := time.Now().Add(5 * time.Minute); !read[bool](p, `[...document.querySelectorAll('[aria-labelledby=alerts] li')].some((e) => e.innerText.includes('GPUMemoryUsageCritical'))`); {
		require.True(t, time.Now().Before(end), "the alert is on the page")
		<-time.After(time.Second)
	}
	save("full-page")
	p.scrollTo(`[aria-labelledby=alerts]`)
	save("alert-page")
	p.do(chromedp.Click(`.last nav a`))
	p.wait(`document.querySelector('.search tr.prompt a') !== null`)
	p.do(chromedp.Click(`.search tr.prompt a`))
	p.wait(`document.querySelector('.waterfall') !== null`)
	save("slow-page")
}

// scrollTo brings an element into the window.
func (p *tab) scrollTo(selector string) {
	p.t.Helper()
	read[bool](p, fmt.Sprintf(`(document.querySelector(%q).scrollIntoView({block: 'center', behavior: 'instant'}), true)`, selector))
}

// TestTheREADMEsAlertIsInTheWindow, as its screenshot has it: it is below the first screen.
func TestTheREADMEsAlertIsInTheWindow(t *testing.T) {
	t.Parallel()
	p := openTab(t, startChromium(t))
	p.reshape(wide)
	p.open(serveFixture(t, newFixture(t, sceneOf("rush"))) + "/?lang=en")
	p.wait(`document.querySelector('[aria-labelledby=alerts] li') !== null`)
	outside := fmt.Sprintf("%s(%q, 2)", isInWindow, `[aria-labelledby=alerts] li`)
	assert.NotEmpty(t, read[[]string](p, outside))
	p.scrollTo(`[aria-labelledby=alerts]`)
	assert.Empty(t, read[[]string](p, outside))
}
