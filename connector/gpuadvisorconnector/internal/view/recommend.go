// SPDX-License-Identifier: Apache-2.0

package view

import "time"

// Recommendations are what the requests of the last seven days say.
type Recommendations struct {
	// Since is from when on requests are known.
	Since time.Time `json:"since"`
	// All is what was held back altogether, GPUs on each GPU; one without an id is of requests whose
	// GPU is not known.
	All  HeldBack   `json:"all"`
	GPUs []HeldBack `json:"gpus"`
	// Classes are the sizes of task classes.
	Classes []ClassSizes `json:"classes"`
	// Replayed is the part of the time whose requests were replayed, to find the sizes: less than 1 if
	// there were more requests than limits::requests.
	Replayed float64 `json:"replayed"`
}

// HeldBack is what was held back of the requests' work. Times are seconds of a whole GPU.
type HeldBack struct {
	// GPU is the hw.id, Model its product; empty for all together.
	GPU   string `json:"gpu"`
	Model string `json:"model"`
	// Shortage is what is short: memory, time, size (images that take longer than their objective on
	// an idle GPU, too), or none. Message says it in the language of the request, with the remedy.
	Shortage string `json:"shortage"`
	Message  string `json:"message"`
	// Requests is how many came, Missed how many did not meet their objective.
	Requests int64 `json:"requests"`
	Missed   int64 `json:"missed"`
	// Offered is what all requests use, or would have used.
	Offered float64 `json:"offered_s"`
	// Memory, Time and Size are the parts of it that each held back; OutOfMemory is what was used by
	// requests that ran out of memory, and counts in Memory.
	Memory      float64 `json:"memory_s"`
	Time        float64 `json:"time_s"`
	Size        float64 `json:"size_s"`
	OutOfMemory float64 `json:"out_of_memory_s"`
}

// ClassSizes are the sizes of a task class.
type ClassSizes struct {
	TaskClass string `json:"task_class"`
	Requests  int    `json:"requests"`
	// Objective is the largest longer side in pixels with which 95 % of the requests would have met
	// the objective, if larger ones had been sent at that size, in all classes at their own. Message
	// says it in the language of the request.
	Objective *int   `json:"objective_side"`
	Message   string `json:"message"`
	// Limited is false if no limit is needed: Objective is the largest that came then.
	Limited bool `json:"limited"`
	// Share is the part of the requests that would have met the objective with that size, AsTheyCame
	// without, both by the replay.
	Share      *float64 `json:"share"`
	AsTheyCame *float64 `json:"share_as_they_came"`
	// Safe are the largest safe sizes, by GPU model.
	Safe []SafeSize `json:"safe"`
}

// SafeSize is the largest side of a class's images that fits into the memory of GPUs of a model, and
// ends within the deadline while nothing else runs.
type SafeSize struct {
	Model string `json:"model"`
	// Side is in pixels.
	Side *int `json:"side"`
	// Bound is what bounds it: memory, time, seen (no larger ones were seen), or not_known.
	Bound string `json:"bound"`
}
