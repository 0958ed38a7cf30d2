//go:build !linux || !cgo

package comfyuireceiver

import (
	"context"
	"time"

	"go.uber.org/zap"
)

// cardsOf tells nothing without NVML.
type cardsOf struct{}

func newCardsOf(string, *zap.Logger) *cardsOf { return &cardsOf{} }

func (*cardsOf) open() bool                          { return false }
func (*cardsOf) wait(time.Duration)                  {}
func (*cardsOf) simulated() bool                     { return false }
func (*cardsOf) close()                              {}
func (*cardsOf) at(int) (id string)                  { return "" }
func (*cardsOf) of(context.Context, int) (id string) { return "" }
