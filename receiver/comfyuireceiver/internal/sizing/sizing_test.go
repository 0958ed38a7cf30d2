// SPDX-License-Identifier: Apache-2.0

package sizing

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

// bounds are those of the default configuration.
var bounds = protocol.Bounds{Label: 256, Message: 4096, Stacktrace: 16384, Nodes: 4096}

func TestSizeModelAndClassOfWorkflows(t *testing.T) {
	for name, test := range map[string]struct {
		body string
		want Sizing
	}{
		"DDColor":         {`{"prompt": {"2": {"class_type": "DDColor_Colorize", "inputs": {"model_input_size": 460, "checkpoint": "ddcolor_paper.pth"}}}}`, Sizing{460, 460, 0, 0, "ddcolor_paper.pth", "people"}},
		"article":         {`{"prompt": {"2": {"class_type": "DDColor-ddcolorize", "inputs": {"size": "1280", "model": "ddcolor_modelscope.pth"}}}}`, Sizing{1280, 1280, 0, 0, "ddcolor_modelscope.pth", "buildings"}},
		"between":         {`{"prompt": {"2": {"class_type": "DDColor_Colorize", "inputs": {"model_input_size": 800}}}}`, Sizing{800, 800, 0, 0, "", "other"}},
		"diffusion":       {`{"prompt": {"1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sdxl.safetensors"}}, "2": {"class_type": "EmptyLatentImage", "inputs": {"width": 1024, "height": 768, "batch_size": 4}}, "3": {"class_type": "KSamplerAdvanced", "inputs": {"steps": 20}}, "4": {"class_type": "KSampler", "inputs": {"steps": 10}}}}`, Sizing{1024, 768, 4, 30, "sdxl.safetensors", "other"}},
		"newer latent":    {`{"prompt": {"1": {"class_type": "EmptyFlux2LatentImage", "inputs": {"width": 1536, "height": 1024, "batch_size": 2}}, "2": {"class_type": "Flux2Scheduler", "inputs": {"steps": 28}}, "3": {"class_type": "SamplerCustomAdvanced", "inputs": {"sigmas": ["2", 0], "latent_image": ["1", 0]}}}}`, Sizing{1536, 1024, 2, 28, "", "other"}},
		"video":           {`{"prompt": {"1": {"class_type": "EmptyHunyuanLatentVideo", "inputs": {"width": 848, "height": 480, "length": 25}}}}`, Sizing{848, 480, 0, 0, "", "other"}},
		"caller's":        {`{"extra_data": {"task_class": "batch"}, "prompt": {"2": {"class_type": "DDColor_Colorize", "inputs": {"model_input_size": 460}}}}`, Sizing{460, 460, 0, 0, "", "batch"}},
		"linked size":     {`{"prompt": {"2": {"class_type": "DDColor_Colorize", "inputs": {"model_input_size": ["1", 0]}}}}`, Sizing{0, 0, 0, 0, "", "buildings"}},
		"nonsense":        {`{"prompt": {"2": {"class_type": "DDColor_Colorize", "inputs": {"model_input_size": -1e99, "checkpoint": 7}}}}`, Sizing{0, 0, 0, 0, "", "other"}},
		"configured rule": {`{"prompt": {"2": {"class_type": "MyUpscaler", "inputs": {"target": 3000}}}}`, Sizing{3000, 3000, 0, 0, "", "other"}},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := NewSizer([]Rule{{Node: "My*", Size: "target"}}, nil)
			require.NoError(t, err)
			sub, err := bounds.ParseSubmission(strings.NewReader(test.body))
			require.NoError(t, err)
			assert.Equal(t, test.want, s.Of(&sub))
		})
	}
}
