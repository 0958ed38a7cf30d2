// SPDX-License-Identifier: Apache-2.0

package memory

// Figures are those of one prompt.
type Figures struct {
	Use
	// Need is the largest lower bound of the last executions of its class, of which there
	// were so many.
	Need       float64
	Executions int
	// Context is the memory of the server's CUDA context; 0 if it is unknown.
	Context float64
}
