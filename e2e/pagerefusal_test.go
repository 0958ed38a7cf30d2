// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/http"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
)

// TestThePageSaysWhyAPromptWasRefused has the proxy of config/comfyui.yaml and config/enforce.yaml
// refuse a prompt: its row and its page say why and what to do, in both languages, and do not call
// it a fault.
func TestThePageSaysWhyAPromptWasRefused(t *testing.T) {
	beside(t, working)
	chromium := browser(t)
	m := newMachine(t, fakenvml.Current, "l40s")
	p := newLivePage(t)
	proxy := "127.0.0.1:" + strconv.Itoa(port(t))
	collect(t, "comfyui.yaml", append(m.environment, p.environment(), "OTELCOL_GPU_COMFYUI="+simulatedComfyUI(t), "OTELCOL_GPU_COMFYUI_PROXY="+proxy, "OTELCOL_GPU_COMFYUI_STORE="+t.TempDir()),
		"--config", filepath.Join(root, "config", "enforce.yaml"), "--config=yaml:receivers::comfyui::admission::rate_limits: [{requests_per_minute: 0.01}]")
	for i, status := range []int{http.StatusOK, http.StatusTooManyRequests} {
		require.Equal(t, status, submitPhoto(t, proxy, 400), "request %d", i)
	}
	tab := openPage(t, chromium, p.url()+"/?lang=en")
	refused := `[...document.querySelectorAll('tr.prompt')].find((e) => e.querySelector('.reason').innerText.trim() === 'refused: rate limit')`
	tab.wait(refused + ` !== undefined`)
	assert.True(t, readPage[bool](tab, refused+`.querySelector('.reason .icon.warning') !== null`))
	readPage[bool](tab, `(`+refused+`.querySelector('a').click(), true)`)
	tab.wait(`document.querySelector('.detail .remedy') !== null`)
	assert.Regexp(t, `^refused\s*Refused after (less than 1 ms|\d ms|\d\.\d+ s): its client sent more prompts than its rate limit allows\.$`, readPage[string](tab, `document.querySelector('h1.sentence').innerText.replaceAll('\u00a0', ' ').trim()`))
	assert.Equal(t, "Send fewer prompts a minute, or raise admission::rate_limits.", readPage[string](tab, `document.querySelector('.detail .remedy').innerText`))
	tab.do(chromedp.Navigate(p.url() + readPage[string](tab, `location.pathname`) + "?lang=zh"))
	tab.wait(`document.querySelector('.detail .remedy')?.innerText === '请降低每分钟提交的任务数，或调高 admission::rate_limits。'`)
	assert.Contains(t, readPage[string](tab, `document.querySelector('h1.sentence').innerText`), "被拒绝：客户端提交的任务超过速率限制。")
	assert.Empty(t, tab.noted(false))
}
