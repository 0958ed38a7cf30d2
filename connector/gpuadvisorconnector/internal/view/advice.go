// SPDX-License-Identifier: Apache-2.0

package view

// Advice is whether a server should run a prompt.
type Advice struct {
	// Decision is admit, hold, reject or redirect; Reason is why.
	Decision string `json:"decision"`
	Reason   string `json:"reason"`
	// Message is what to tell the user, in the language of the request; empty for admit.
	Message string `json:"message"`
	// Target is another server to send it to, for redirect.
	Target string `json:"target,omitempty"`
	// Wait is until it would start, Completion until it would end, Low and High the 90 % band of
	// that, in seconds from now on.
	Wait       *float64 `json:"predicted_wait_s"`
	Completion *float64 `json:"predicted_completion_s"`
	Low        *float64 `json:"predicted_completion_low_s"`
	High       *float64 `json:"predicted_completion_high_s"`
	// RetryAfter is after how many seconds it may be admitted.
	RetryAfter *float64 `json:"retry_after_s"`
	// MaxSide is the largest longer side in pixels that would be admitted now.
	MaxSide *int `json:"max_side"`
	// Need is the upper bound of what the server's process needs with it, Room what the GPU has
	// for that, in bytes.
	Need *int64 `json:"memory_need"`
	Room *int64 `json:"memory_room"`
	// Executions is how many executions of its kind the predictions are made from.
	Executions int `json:"executions"`
}

// AdviceList answers several requests, in their order.
type AdviceList struct {
	Advice []Advice `json:"advice"`
}

// AdviceRequest is a prompt that somebody wants to have run.
type AdviceRequest struct {
	// Server is the service.instance.id of the server, GPU the hw.id of its GPU; without them any
	// server of the collector may run it.
	Server string `json:"server,omitempty"`
	GPU    string `json:"gpu,omitempty"`
	// TaskClass, Workflow and Model are as in telemetry.
	TaskClass string `json:"task_class,omitempty"`
	Workflow  string `json:"workflow,omitempty"`
	Model     string `json:"model,omitempty"`
	// Width and Height are the image's, in pixels.
	Width  int `json:"width,omitempty"`
	Height int `json:"height,omitempty"`
	// Batch is how many images, Steps how many steps.
	Batch int `json:"batch,omitempty"`
	Steps int `json:"steps,omitempty"`
	// Deadline is for how many seconds from now on the image is of use; 0 is the class's.
	Deadline float64 `json:"deadline_s,omitempty"`
}
