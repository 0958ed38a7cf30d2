// SPDX-License-Identifier: Apache-2.0

package prompts

import (
	"fmt"
	"math"

	"github.com/klauspost/compress/zstd"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// packer compresses traces. Those of prompts have nearly everything in common but figures and
// ids, which a dictionary of their attributes makes use of. The fastest level is as good as the
// others on them, and takes the least memory.
type packer struct {
	encoder *zstd.Encoder
	decoder *zstd.Decoder
	marshal ptrace.ProtoMarshaler
	unproto ptrace.ProtoUnmarshaler
}

// maxTraceBytes bounds a trace that is decompressed.
const maxTraceBytes = 64 << 20

func newPacker() *packer {
	const dictionaryID = 1
	d := dictionary()
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderDictRaw(dictionaryID, d), zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithWindowSize(1<<17), zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(false))
	if err != nil {
		panic(err) // the options are constants
	}
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderDictRaw(dictionaryID, d), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(maxTraceBytes))
	if err != nil {
		panic(err)
	}
	return &packer{encoder: encoder, decoder: decoder}
}

// pack compresses a trace. It rounds the real numbers of its attributes to the precision of a
// float32, seven digits: the rest is noise, and half of what is left of a trace.
func (p *packer) pack(t promptTrace) ([]byte, error) {
	for _, s := range t.spans().All() {
		for _, v := range s.Attributes().All() {
			if v.Type() == pcommon.ValueTypeDouble {
				v.SetDouble(rounded(v.Double()))
			}
		}
	}
	raw, err := p.marshal.MarshalTraces(t.traces)
	if err != nil {
		return nil, fmt.Errorf("encode a trace: %w", err)
	}
	packed := p.encoder.EncodeAll(raw, nil)
	return append(make([]byte, 0, len(packed)), packed...), nil
}

// rounded has the sign, the exponent and the upper 23 bits of the mantissa.
func rounded(v float64) float64 {
	const dropped = 29
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return v
	}
	return math.Float64frombits((math.Float64bits(v) + 1<<(dropped-1)) &^ (1<<dropped - 1))
}

func (p *packer) unpack(packed []byte) (ptrace.Traces, error) {
	raw, err := p.decoder.DecodeAll(packed, nil)
	if err != nil {
		return ptrace.Traces{}, fmt.Errorf("decompress a trace: %w", err)
	}
	t, err := p.unproto.UnmarshalTraces(raw)
	if err != nil {
		return ptrace.Traces{}, fmt.Errorf("decode a trace: %w", err)
	}
	return t, nil
}
