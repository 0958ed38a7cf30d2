// SPDX-License-Identifier: Apache-2.0

package fakenvml

import (
	"fmt"
	"strings"
)

// The numbers of csrc/state.h, every member 64 bits wide.
const (
	stateMagic = 0x6c6d766e656b6166
	maxGPUs    = 64
	maxMIG     = 8
	textSize   = 96
	maxSteps   = 256
	maxFields  = 320
	maxEvents  = 256
	maxGPM     = 128
	maxLinks   = 18
	maxProcs   = 32
	maxTurns   = 16

	word         = 8
	cellSize     = 2 * word
	fieldSize    = 3 * word
	functionSize = 5 * word
	stepSize     = 3 * word
	seriesSize   = word + maxSteps*stepSize
	eventSize    = 3 * word
	migSize      = 7*word + 2*textSize
	linkSize     = 9 * word
	processSize  = 10*word + maxTurns*turnSize
	turnSize     = 2 * word
	gpuHeader    = 6 * word
	textsFrom    = 16 * word
	stateHeader  = textsFrom + 2*textSize + maxEvents*eventSize
)

// layout holds the indices of fields.def by name.
type layout struct {
	texts, values, series, functions map[string]int

	textsAt, valuesAt, fieldsAt, seriesAt, functionsAt, migAt, gpmAt, linksAt, processesAt, gpuSize int
}

func newLayout() (*layout, error) {
	def, err := sources.ReadFile("csrc/fields.def")
	if err != nil {
		return nil, err
	}
	l := &layout{texts: map[string]int{}, values: map[string]int{}, series: map[string]int{}, functions: map[string]int{}}
	kinds := map[string]map[string]int{"TEXT": l.texts, "VALUE": l.values, "SERIES": l.series, "FUNC": l.functions}
	for line := range strings.Lines(string(def)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "//") {
			continue
		}
		kind, rest, ok := strings.Cut(line, "(")
		names, known := kinds[kind]
		if !ok || !known || !strings.HasSuffix(rest, ")") {
			return nil, fmt.Errorf("fields.def: cannot read %q", line)
		}
		names[strings.TrimSuffix(rest, ")")] = len(names)
	}
	l.textsAt = gpuHeader
	l.valuesAt = l.textsAt + len(l.texts)*textSize
	l.fieldsAt = l.valuesAt + len(l.values)*cellSize
	l.seriesAt = l.fieldsAt + maxFields*fieldSize
	l.functionsAt = l.seriesAt + len(l.series)*seriesSize
	l.migAt = l.functionsAt + len(l.functions)*functionSize
	l.gpmAt = l.migAt + maxMIG*migSize
	l.linksAt = l.gpmAt + maxGPM*cellSize
	l.processesAt = l.linksAt + maxLinks*linkSize
	l.gpuSize = l.processesAt + maxProcs*processSize
	return l, nil
}

func (l *layout) size() int { return stateHeader + maxGPUs*l.gpuSize }
