// SPDX-License-Identifier: Apache-2.0

package prompts

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/sampletrace"
)

// constantsOf reads the values of a file's constants of a type.
func constantsOf(t *testing.T, path, kind string) (values []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	require.NoError(t, err)
	for _, d := range file.Decls {
		general, ok := d.(*ast.GenDecl)
		if !ok || general.Tok != token.CONST {
			continue
		}
		for _, spec := range general.Specs {
			s := spec.(*ast.ValueSpec)
			if of, ok := s.Type.(*ast.Ident); !ok || of.Name != kind {
				continue
			}
			for _, v := range s.Values {
				value, err := strconv.Unquote(v.(*ast.BasicLit).Value)
				require.NoError(t, err)
				values = append(values, value)
			}
		}
	}
	return values
}

// admits are the reasons to admit a prompt; each other one of the code is a reason to refuse it.
var admits = []string{"fits", "idle", "probe", "unknown", "stale", "starting", "failed"}

// TestEachOutcomeAndEachReasonOfARefusalHasItsTexts reads them from the receiver's and the
// advisors' code: one that is added there and not here would show as a key, or as an attribute's
// value in all languages.
func TestEachOutcomeAndEachReasonOfARefusalHasItsTexts(t *testing.T) {
	outcomes := constantsOf(t, "../../../../receiver/comfyuireceiver/internal/prompt/prompt.go", "Outcome")
	require.Contains(t, outcomes, "refused")
	reasons := constantsOf(t, "../../../../internal/admission/admission.go", "Reason")
	for _, reason := range admits {
		require.Contains(t, reasons, reason)
	}
	require.Greater(t, len(reasons), len(admits)+9)
	for i, outcome := range outcomes {
		assert.True(t, texts.Has("page.outcome."+outcome), "page.outcome.%s", outcome)
		if outcome == "success" || outcome == "error" {
			continue
		}
		s := held(image{n: i, waited: 1, outcome: outcome, failed: "a_type"})
		for _, l := range texts.Languages() {
			d, ok := s.Detail(l, fmt.Sprintf("prompt-%d", i))
			require.True(t, ok)
			assert.NotRegexp(t, "^Failed |失败（", d.Sentence, "%s in %s is as another failure", outcome, l)
			assert.NotEqual(t, "a_type", d.Reason, "%s in %s", outcome, l)
		}
	}
	for i, reason := range reasons {
		if slices.Contains(admits, reason) {
			continue
		}
		s := held(image{n: i, waited: 1, outcome: "refused", failed: reason})
		for _, l := range texts.Languages() {
			d, ok := s.Detail(l, fmt.Sprintf("prompt-%d", i))
			require.True(t, ok)
			args := texts.Args{"d": "1.0 s", "error": reason}
			if l == texts.Chinese {
				args["d"] = "1.0 秒"
			}
			assert.Equal(t, texts.Message{Key: "prompt.refused." + reason, Args: args}.In(l), d.Sentence)
			assert.Equal(t, texts.Message{Key: "prompt.reason.refused." + reason}.In(l), d.Reason)
			assert.Equal(t, texts.Message{Key: "prompt.remedy.refused." + reason}.In(l), d.Remedy)
			for _, said := range []string{d.Sentence, d.Reason, d.Remedy} {
				assert.NotContains(t, said, "prompt.re", "a key")
				assert.Regexp(t, `\pL{2}`, said)
			}
		}
	}
}

// TestAWorkflowsFailuresAreWhatFailed: what clients end, and what is refused, says nothing of the
// workflow. The condition comfyui.errors counts the same.
func TestAWorkflowsFailuresAreWhatFailed(t *testing.T) {
	var images []image
	for i, outcome := range constantsOf(t, "../../../../receiver/comfyuireceiver/internal/prompt/prompt.go", "Outcome") {
		images = append(images, image{n: i, waited: 1, outcome: outcome})
	}
	v := held(images...).List(texts.English, Query{Limit: 100})
	require.Len(t, v.Workflows, 1)
	assert.Equal(t, len(images), v.Workflows[0].Prompts)
	assert.Equal(t, 2, v.Workflows[0].Failed, "error and lost")
	assert.Equal(t, 2, held(images...).List(texts.English, Query{Failed: true, Limit: 100}).Matched, "who looks for failures finds as many")
	failing := map[string]bool{}
	for _, p := range v.Prompts {
		if s := held(image{n: 1, waited: 1, outcome: p.Outcome}).List(texts.English, Query{}); s.Workflows[0].Failed > 0 {
			failing[p.Outcome] = true
		}
	}
	assert.Equal(t, map[string]bool{"error": true, "lost": true}, failing)
}

// TestAWorkflowHasThePeakOfAllAndTheMeanOfThoseWithABill: to know on which GPU it will run.
func TestAWorkflowHasThePeakOfAllAndTheMeanOfThoseWithABill(t *testing.T) {
	bill := func(n int, outcome string, peak int, energy float64) image {
		return image{n: n, ran: 2, outcome: outcome, attributes: map[string]any{"gpu.correlation": "measured", "gpu.memory.peak": peak, "gpu.energy": energy}}
	}
	v := held(bill(0, "success", 4<<30, 100), bill(1, "error", 7<<30, 50), bill(2, "success", 2<<30, 300), image{n: 3, ran: 2}).List(texts.English, Query{})
	require.Len(t, v.Workflows, 1)
	w := v.Workflows[0]
	assert.Equal(t, 4, w.Prompts)
	require.NotNil(t, w.MemoryPeak)
	assert.EqualValues(t, 7<<30, *w.MemoryPeak, "also of one that failed: it needed as much")
	require.NotNil(t, w.EnergyMean)
	assert.InDelta(t, 150, *w.EnergyMean, 1e-6, "of three")
	v = held(image{n: 0, ran: 2}).List(texts.English, Query{})
	assert.Nil(t, v.Workflows[0].MemoryPeak, "not known")
	assert.Nil(t, v.Workflows[0].EnergyMean)
}

// TestWorkflowsWithoutASummaryAreCounted: the answer is bounded, and says so.
func TestWorkflowsWithoutASummaryAreCounted(t *testing.T) {
	s := NewStore(Limits{Prompts: 1000, Bytes: 8 << 20})
	for i := range 3 * maxWorkflows {
		s.Add(sampletrace.Prompt{
			ID: fmt.Sprint(i), Received: time.Unix(int64(1000+i), 0), Ran: time.Second, Root: map[string]any{"comfyui.workflow.id": fmt.Sprint("workflow-", i%(maxWorkflows+7))},
		}.Traces())
	}
	v := s.List(texts.English, Query{})
	assert.Len(t, v.Workflows, maxWorkflows)
	assert.Equal(t, maxWorkflows+7, v.WorkflowsMatched)
	assert.Equal(t, 3, v.Workflows[0].Prompts, "those with the most prompts have one")
	assert.Equal(t, 1, s.List(texts.English, Query{Workflow: "workflow-3"}).WorkflowsMatched)
}

func TestARefusalSaysWhyAndWhatToDo(t *testing.T) {
	s := held(image{n: 0, waited: 0.01, outcome: "refused", failed: "deadline"}, image{n: 1, waited: 20, outcome: "refused", failed: "a_reason_of_another_advisor"})
	d := detail(t, s, 0)
	assert.Equal(t, "Refused after 0.01 s: its image would have been ready after its deadline, or would have made another one late.", d.Sentence)
	assert.Equal(t, "refused: too late", d.Reason)
	assert.Contains(t, d.Remedy, "(gpuadvisor: classes)")
	assert.Equal(t, "It used no GPU.", d.NoBill)
	chinese, _ := s.Detail(texts.Chinese, d.ID)
	assert.Equal(t, "提交 0.01 秒后被拒绝：图像会在期限之后才完成，或使其他图像超时。", chinese.Sentence)
	assert.Equal(t, "被拒绝：会超时", chinese.Reason)
	d = detail(t, s, 1)
	assert.Equal(t, "Refused after 20 s (a_reason_of_another_advisor).", d.Sentence)
	assert.Equal(t, "refused: a_reason_of_another_advisor", d.Reason)
	require.Len(t, d.Parts, 1)
	assert.Equal(t, "waiting", d.Parts[0].Kind, "the receiver held it")
}
