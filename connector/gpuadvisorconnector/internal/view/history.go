// SPDX-License-Identifier: Apache-2.0

package view

// History is the answer of /v1/history: a GPU's samples, oldest first, as columns of one
// length. Times are Unix seconds; a value that is not known is null.
type History struct {
	GPU         string     `json:"gpu"`
	Times       []float64  `json:"times"`
	Memory      []*float64 `json:"memory"`
	MemoryPeak  []*float64 `json:"memory_peak"`
	Utilization []*float64 `json:"utilization"`
	Temperature []*float64 `json:"temperature"`
	Power       []*float64 `json:"power"`
}
