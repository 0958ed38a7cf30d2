// SPDX-License-Identifier: Apache-2.0

package prompts

import (
	"cmp"
	"slices"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
)

const (
	// slowFrom is from how many times its usual time on a prompt is slow, slowBy by how much at
	// least.
	slowFrom = 1.5
	slowBy   = 100 * time.Millisecond
	// fastUntil is the same for one that took less.
	fastUntil = 0.67
	// leastUsual is the shortest usual time that is shown: one of a cached prompt is none to compare
	// with.
	leastUsual = 10 * time.Millisecond
	// maxCauses bounds the causes that a sentence names. A cause is named from shareNamed of the
	// duration and leastNamed on, if it is longer than usual.
	maxCauses  = 3
	shareNamed = 0.05
	leastNamed = 50 * time.Millisecond
	// mainShare is from which share of the duration on a cause is shown of a prompt of which it
	// is not known whether it is slow.
	mainShare = 0.5
)

// isSlow reports whether a prompt that succeeded took unusually long: the whole of it,
// compared with the execution alone, since an image that nothing holds up does not wait.
func (r *record) isSlow() bool {
	if !r.succeeded() || !r.usual.isKnown() {
		return false
	}
	lasted := r.lasted()
	return float64(lasted) >= slowFrom*float64(r.usual.ran) && lasted-r.usual.ran >= slowBy
}

func (r *record) succeeded() bool { return r.outcome.Value() == "success" }

// failed reports whether a prompt failed, as the condition comfyui.errors counts: what clients
// cancelled or interrupted, and what the server rejected or the receiver refused, did not.
func (r *record) failed() bool {
	outcome := r.outcome.Value()
	return outcome == "error" || outcome == "lost"
}

// cause is a part of the duration that is worth a word.
type cause struct {
	part   int
	lasted time.Duration
}

// causes are what made a prompt slow, the longest first. Whatever is usual of its kind, as a
// power limit that all executions reach, is not among them; a wait always is.
func (r *record) causes() (found []cause) {
	whole := r.lasted()
	for part := range work {
		lasted := r.parts[part]
		if lasted < leastNamed || float64(lasted) < shareNamed*float64(whole) {
			continue
		}
		if part != waiting && r.usual.isKnown() && !r.usual.exceeded[part] {
			continue
		}
		found = append(found, cause{part, lasted})
	}
	slices.SortStableFunc(found, func(a, b cause) int { return cmp.Compare(b.lasted, a.lasted) })
	return found[:min(len(found), maxCauses)]
}

// phrase is a cause as a part of a sentence: prefix is prompt.cause or prompt.reason.
func (r *record) phrase(prefix string, c cause) texts.Text {
	args := texts.Args{"d": texts.Seconds(c.lasted)}
	switch c.part {
	case waiting:
		if r.ahead <= 0 {
			return texts.Message{Key: prefix + ".waiting.alone", Args: args}
		}
		args["n"] = r.ahead
		return texts.Message{Key: prefix + ".waiting", Args: args}
	case loading:
		if r.loadingEstimated && prefix == causePrefix {
			return texts.Message{Key: prefix + ".loading.estimated", Args: args}
		}
		return texts.Message{Key: prefix + ".loading", Args: args}
	case retry:
		return texts.Message{Key: prefix + ".retry", Args: args}
	case firstSteps:
		return texts.Message{Key: prefix + ".first_steps", Args: args}
	case throttled:
		args["why"] = oneOf("prompt.throttle.", r.throttle.Value(), "reason")
		return texts.Message{Key: prefix + ".throttled", Args: args}
	}
	return texts.Message{Key: prefix + ".shared", Args: args}
}

const (
	causePrefix  = "prompt.cause"
	reasonPrefix = "prompt.reason"
)

// oneOf is the text of a value that has one of its own, else that of "other".
func oneOf(prefix, value, placeholder string) texts.Text {
	if texts.Has(prefix + value) {
		return texts.Message{Key: prefix + value}
	}
	return texts.Message{Key: prefix + "other", Args: texts.Args{placeholder: value}}
}

// sentence says why a prompt took as long as it did, or how it failed.
func (r *record) sentence() texts.Text {
	took := texts.Seconds(r.lasted())
	args := texts.Args{"d": took, "error": r.errorType.Value(), "node": r.node()}
	switch outcome := r.outcome.Value(); {
	case r.succeeded():
		return r.compared()
	case outcome == "interrupted", outcome == "cancelled", outcome == "lost", outcome == "unfinished", outcome == "rejected":
		return texts.Message{Key: "prompt." + outcome, Args: args}
	case outcome == refused:
		return texts.Message{Key: r.refusal("prompt.refused."), Args: args}
	case r.errorType.Value() == outOfMemory:
		return texts.Message{Key: "prompt.failed.out_of_memory", Args: args}
	case r.errorNode.Value() != "":
		return texts.Message{Key: "prompt.failed.node", Args: args}
	}
	return texts.Message{Key: "prompt.failed", Args: args}
}

const (
	outOfMemory = "out_of_memory"
	// refused is the outcome of prompts that the receiver refused: the service protected itself.
	refused = "refused"
)

// refusal is the key of a text about why the receiver refused a prompt. An advisor elsewhere may
// have reasons that are not known here.
func (r *record) refusal(prefix string) string {
	if key := prefix + r.errorType.Value(); texts.Has(key) {
		return key
	}
	return prefix + "other"
}

// node is the class of the node that failed.
func (r *record) node() texts.Text {
	if class := r.errorNode.Value(); class != "" {
		return texts.Verbatim(class)
	}
	return texts.Message{Key: "prompt.failed.node.unknown"}
}

// compared compares a prompt that succeeded with what is usual.
func (r *record) compared() texts.Text {
	lasted := r.lasted()
	usual := max(r.usual.ran, leastUsual)
	args := texts.Args{"d": texts.Seconds(lasted), "usual": texts.Seconds(usual)}
	causes := r.causes()
	said := make(texts.List, 0, len(causes))
	for _, c := range causes {
		said = append(said, r.phrase(causePrefix, c))
	}
	args["causes"] = said
	key := "prompt.usual"
	switch {
	case len(r.gpus) == 0:
		key = "prompt.unknown.gpu"
	case !r.usual.isKnown():
		key = "prompt.unknown"
	case r.isSlow():
		key = "prompt.slow"
		args["times"] = texts.Times(float64(lasted) / float64(usual))
		if len(said) == 0 {
			key = "prompt.slow.unexplained"
		}
		return texts.Message{Key: key, Args: args}
	case len(said) == 0 && float64(lasted) < fastUntil*float64(r.usual.ran):
		key = "prompt.fast"
	}
	if len(said) > 0 {
		key += ".causes"
	}
	return texts.Message{Key: key, Args: args}
}

// reason is the sentence in a few words, for a row of a list; nil if nothing was unusual.
func (r *record) reason() texts.Text {
	args := texts.Args{"node": r.node(), "error": r.errorType.Value()}
	switch {
	case r.succeeded():
		causes := r.causes()
		switch {
		case len(causes) > 0 && (r.isSlow() || !r.usual.isKnown() && float64(causes[0].lasted) >= mainShare*float64(r.lasted())):
			return r.phrase(reasonPrefix, causes[0])
		case r.isSlow():
			return texts.Message{Key: reasonPrefix + ".unexplained"}
		}
		return nil
	case r.outcome.Value() == refused:
		return texts.Message{Key: r.refusal(reasonPrefix + ".refused."), Args: args}
	case r.errorType.Value() == outOfMemory:
		return texts.Message{Key: reasonPrefix + ".out_of_memory", Args: args}
	case r.outcome.Value() == "error" && r.errorNode.Value() != "":
		return texts.Message{Key: reasonPrefix + ".node", Args: args}
	}
	if key := reasonPrefix + "." + r.outcome.Value(); texts.Has(key) {
		return texts.Message{Key: key, Args: args}
	}
	return texts.Message{Key: reasonPrefix + ".failed", Args: args}
}

// remedy is what to do about a prompt that failed; nil if there is nothing.
func (r *record) remedy() texts.Text {
	key := ""
	switch outcome := r.outcome.Value(); {
	case outcome == refused:
		return texts.Message{Key: r.refusal("prompt.remedy.refused.")}
	case r.errorType.Value() == outOfMemory:
		key = outOfMemory
	case outcome == "error" && r.errorNode.Value() != "":
		key = "node"
	case outcome == "error":
		key = "server"
	case outcome == "rejected", outcome == "lost":
		key = outcome
	default:
		return nil
	}
	return texts.Message{Key: "prompt.remedy." + key}
}

// noBill is why a prompt has no figures of the GPU.
func (r *record) noBill() texts.Text {
	if why := r.bill.why.Value(); why != "" {
		return oneOf("prompt.nobill.", why, "reason")
	}
	switch r.outcome.Value() {
	case refused, "rejected", "cancelled": // it never ran
		return texts.Message{Key: "prompt.nobill.unused"}
	}
	return texts.Message{Key: "prompt.nobill.none"}
}
