// SPDX-License-Identifier: Apache-2.0

package fakecomfyui

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// serveNewer answers what only the newer version knows; it returns false for the rest.
func (s *Server) serveNewer(w http.ResponseWriter, r *http.Request, path string) bool {
	switch {
	case strings.HasPrefix(r.URL.Path, "/api/jobs"): // this one does not exist without /api
		return s.serveJobs(w, r, strings.TrimPrefix(r.URL.Path, "/api/jobs"))
	case path == "/internal/logs/subscribe" && r.Method == http.MethodPatch:
		s.subscribe(w, r)
	case path == "/internal/folder_paths":
		answer(w, http.StatusOK, folders())
	case path == "/node_replacements":
		answer(w, http.StatusOK, map[string]any{})
	case path == "/global_subgraphs":
		answer(w, http.StatusOK, subgraphs)
	case path == "/users":
		answer(w, http.StatusOK, map[string]any{"storage": "server", "migrated": true})
	case path == "/settings":
		answer(w, http.StatusOK, map[string]any{"Comfy.InstalledVersion": "1.49.0", "Comfy.TutorialCompleted": true})
	case path == "/assets":
		answer(w, http.StatusServiceUnavailable, map[string]any{"error": map[string]any{
			"code": "SERVICE_DISABLED", "message": "Assets system is disabled. Start the server with --enable-assets to use this feature.", "details": map[string]any{},
		}})
	default:
		return false
	}
	return true
}

// subgraphs are two of the templates that the recorded server came with.
var subgraphs = map[string]any{
	"cc0d4305b4ec2142d0f338f3255904e0deb3b7aab99daf1a4383eb111b53f016": map[string]any{"source": "templates", "name": "Edge-Preserving Blur", "info": map[string]any{"node_pack": "comfyui"}},
	"704430a4fa2b57f26cece5e527b717a3ad6d0eaa419421a4f35fa09c0fc3251c": map[string]any{"source": "templates", "name": "Color Balance", "info": map[string]any{"node_pack": "comfyui"}},
}

// folderTable is where the recorded server searches for files, below /opt/ComfyUI.
const folderTable = `checkpoints: models/checkpoints output/checkpoints
configs: models/configs
loras: models/loras output/loras
vae: models/vae output/vae
text_encoders: models/text_encoders models/clip output/clip
diffusion_models: models/unet models/diffusion_models output/diffusion_models
clip_vision: models/clip_vision
style_models: models/style_models
embeddings: models/embeddings
diffusers: models/diffusers
vae_approx: models/vae_approx
controlnet: models/controlnet models/t2i_adapter
gligen: models/gligen
upscale_models: models/upscale_models
latent_upscale_models: models/latent_upscale_models
custom_nodes: custom_nodes
datasets: datasets
hypernetworks: models/hypernetworks
photomaker: models/photomaker
classifiers: models/classifiers
model_patches: models/model_patches
audio_encoders: models/audio_encoders
background_removal: models/background_removal
frame_interpolation: models/frame_interpolation
geometry_estimation: models/geometry_estimation
optical_flow: models/optical_flow
detection: models/detection`

func folders() map[string][]string {
	all := map[string][]string{}
	for line := range strings.Lines(folderTable) {
		kind, paths, _ := strings.Cut(strings.TrimSpace(line), ": ")
		for _, path := range strings.Fields(paths) {
			all[kind] = append(all[kind], "/opt/ComfyUI/"+path)
		}
	}
	return all
}

// subscribe has a client's socket get the server's log, or no longer.
func (s *Server) subscribe(w http.ResponseWriter, r *http.Request) {
	var body struct {
		ID      string `json:"clientId"`
		Enabled bool   `json:"enabled"`
	}
	_ = json.NewDecoder(r.Body).Decode(&body)
	s.mu.Lock()
	delete(s.followers, body.ID)
	if body.Enabled && s.sockets[body.ID] != nil {
		s.followers[body.ID] = false
	}
	s.mu.Unlock()
	empty(w)
}

// stats describes the machine. As in ComfyUI, the totals are read before the rest: what is
// allocated meanwhile is in one of them only.
func (s *Server) stats(w http.ResponseWriter) {
	total := s.work.Memory()
	free := s.work.Memory()
	system := map[string]any{
		"os": "posix", "ram_total": 25276502016, "ram_free": 24738656256, "comfyui_version": s.options.Version, "required_frontend_version": "1.27.10",
		"installed_templates_version": nil, "required_templates_version": "0.1.95", "python_version": "3.11.2 (simulated)", "pytorch_version": s.options.Torch,
		"embedded_python": false, "argv": s.options.Arguments,
	}
	count := 1
	if s.options.newer() {
		count = s.options.Devices
		aimdo := required("comfy-aimdo", "0.4.13")
		if s.options.Aimdo {
			aimdo["installed"] = "0.4.13"
		}
		system["os"], system["required_frontend_version"], system["required_templates_version"], system["deploy_environment"] = "linux", "1.49.6", "0.11.44", "local-git"
		system["comfy_package_versions"] = []any{
			required("comfyui-frontend-package", "1.49.6"), required("comfyui-workflow-templates", "0.11.44"), required("comfyui-embedded-docs", "0.5.10"),
			required("comfy-kitchen", "0.2.31"), aimdo,
		}
	}
	devices := make([]any, count)
	for i := range devices {
		devices[i] = map[string]any{
			"name": fmt.Sprintf("cuda:%d %s", i, s.options.Device), "type": "cuda", "index": i,
			"vram_total": total.Total, "vram_free": free.Free, "torch_vram_total": total.TorchTotal, "torch_vram_free": free.TorchFree,
		}
	}
	answer(w, http.StatusOK, map[string]any{"system": system, "devices": devices})
}

func required(name, version string) map[string]any {
	return map[string]any{"name": name, "installed": nil, "required": version}
}
