// SPDX-License-Identifier: Apache-2.0

package browser

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestTheNewestSamplesAgeIsAWarningOnlyIfSamplesHaveStopped(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	p := openTab(t, chromium)
	for _, c := range []struct {
		scene  string
		age    time.Duration
		isSign bool
	}{{"1", 75 * time.Second, false}, {"1", 100 * time.Second, true}, {"stopped", 42 * time.Second, true}} {
		s := sceneOf(c.scene)
		s.age = c.age
		p.open(serveFixture(t, newFixture(s)) + "/?lang=en")
		assert.Contains(t, read[string](p, `document.querySelector('.context').innerText`), "newest sample", "%v", c)
		assert.Equal(t, c.isSign, read[bool](p, `document.querySelector('.context .warning-text .icon') !== null`), "%v", c)
	}
}

func TestAnAddressWithInvalidEscapesIsAPromptThatIsNotKnown(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	p := openTab(t, chromium)
	p.open(serveFixture(t, newFixture(sceneOf("1"))) + "/prompts/%FF?lang=en")
	p.wait(`document.querySelector('.detail .sentence')?.innerText.startsWith('This prompt is not known.')`)
	assert.Equal(t, "%FF", read[string](p, `document.querySelector('.detail .id code').innerText`))
	assert.Empty(t, p.noted())
}
