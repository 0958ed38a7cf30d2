// SPDX-License-Identifier: Apache-2.0

package prompt

// Input is what was found about the images that a prompt names.
type Input struct {
	// Findings are what is wrong with them; empty if nothing is.
	Findings []string `json:"findings,omitempty"`
	// Action is what followed: warn or reject.
	Action string `json:"action,omitempty"`
	// Unjudged is why something of an image is not known; empty if all is.
	Unjudged string `json:"unjudged,omitempty"`
	// Width and Height, in pixels, BytesPerPixel and Chroma are those of the first image with a
	// finding; 0 if they are not known.
	Width         int     `json:"width,omitempty"`
	Height        int     `json:"height,omitempty"`
	BytesPerPixel float64 `json:"bytes_per_pixel,omitempty"`
	Chroma        float64 `json:"chroma,omitempty"`
}
