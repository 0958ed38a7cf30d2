// SPDX-License-Identifier: Apache-2.0

// Package inputs judges the images that clients upload: whether they are too small, of an extreme
// shape, compressed to a few bytes, or coloured already. What an image costs to judge is bounded,
// whatever it claims to be.
package inputs
