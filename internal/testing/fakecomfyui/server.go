// SPDX-License-Identifier: Apache-2.0

package fakecomfyui

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Server is one ComfyUI. It is an http.Handler; Run executes its prompts.
type Server struct {
	// Lag returns how long a frame, and all after it, are delayed; it is called for each
	// frame and must not block. Nil sends frames at once. Set it before the server is used.
	Lag func() time.Duration
	// Done is called with each node and each prompt that was executed, with its true times.
	// It may be nil, and must not block.
	Done func(Executed)

	work Work
	wake chan struct{}

	mu        sync.Mutex
	number    int
	pending   queue
	running   *item
	history   map[string]*entry
	order     []string
	sockets   map[string]*socket // by client id, which is never empty
	cache     map[string]bool    // signatures of what was executed
	lastNode  string
	interrupt bool
	images    []string // uploaded
}

// Executed is one node's run, or with an empty Node a prompt's.
type Executed struct {
	Prompt, Node, Class string
	From, To            time.Time
}

func (s *Server) wasExecuted(e Executed) {
	if s.Done != nil {
		e.To = time.Now()
		s.Done(e)
	}
}

// NewServer makes a server whose nodes do their work on a Work.
func NewServer(work Work) *Server {
	return &Server{work: work, wake: make(chan struct{}, 1), history: map[string]*entry{}, sockets: map[string]*socket{}, cache: map[string]bool{}}
}

// ServeHTTP answers the API, with and without the prefix /api.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	if rest, ok := strings.CutPrefix(path, "/api/"); ok {
		path = "/" + rest
	}
	switch id, _ := strings.CutPrefix(path, "/history/"); {
	case path == "/ws":
		s.serveSocket(w, r)
	case path == "/prompt" && r.Method == http.MethodPost:
		s.submit(w, r)
	case path == "/prompt":
		answer(w, http.StatusOK, map[string]any{"exec_info": map[string]any{"queue_remaining": s.remaining()}})
	case path == "/queue" && r.Method == http.MethodPost:
		s.remove(w, r)
	case path == "/queue":
		s.showQueue(w)
	case path == "/interrupt":
		s.stop(w, r)
	case path == "/history" && r.Method == http.MethodPost:
		s.forget(w, r)
	case path == "/history":
		s.showHistory(w, r.URL.Query().Get("max_items"))
	case strings.HasPrefix(path, "/history/"):
		s.showOne(w, id)
	case path == "/free":
		s.work.Free()
		empty(w)
	case path == "/system_stats":
		s.stats(w)
	case path == "/features":
		answer(w, http.StatusOK, features)
	case strings.HasPrefix(path, "/object_info"):
		s.objectInfo(w, strings.TrimPrefix(strings.TrimPrefix(path, "/object_info"), "/"))
	case path == "/view":
		w.Header().Set("Content-Type", "image/png")
		_, _ = w.Write(fullImage)
	case path == "/upload/image" && r.Method == http.MethodPost:
		s.upload(w, r)
	default:
		plain(w, http.StatusNotFound, "404: Not Found")
	}
}

var features = map[string]any{"supports_preview_metadata": true, "max_upload_size": largestUpload}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func empty(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.WriteHeader(http.StatusOK)
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text)
}

// submit takes a prompt into the queue, or refuses it.
func (s *Server) submit(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Prompt   json.RawMessage `json:"prompt"`
		ClientID *string         `json:"client_id"`
		PromptID string          `json:"prompt_id"`
		Extra    map[string]any  `json:"extra_data"`
		Front    bool            `json:"front"`
		Number   *float64        `json:"number"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		plain(w, http.StatusInternalServerError, "500 Internal Server Error\n\nServer got itself in trouble")
		return
	}
	if len(body.Prompt) == 0 {
		answer(w, http.StatusBadRequest, reject("no_prompt", "No prompt provided", "No prompt provided", nil))
		return
	}
	g, err := readGraph(body.Prompt)
	if err != nil {
		plain(w, http.StatusInternalServerError, "500 Internal Server Error\n\nServer got itself in trouble")
		return
	}
	s.mu.Lock()
	number := float64(s.number)
	if body.Number != nil {
		number = *body.Number
	} else {
		if body.Front {
			number = -number
		}
		s.number++
	}
	s.mu.Unlock()
	outputs, nodes, refused := g.validate(s.hasImage)
	if refused != nil {
		answer(w, http.StatusBadRequest, refused)
		return
	}
	if body.Extra == nil {
		body.Extra = map[string]any{}
	}
	if body.ClientID != nil {
		body.Extra["client_id"] = *body.ClientID
	}
	if body.PromptID == "" {
		body.PromptID = newID()
	}
	s.put(&item{number: number, id: body.PromptID, prompt: body.Prompt, extra: body.Extra, graph: g, outputs: outputs})
	answer(w, http.StatusOK, map[string]any{"prompt_id": body.PromptID, "number": number, "node_errors": nodes})
}

// upload takes an image's name; the image itself is not kept.
func (s *Server) upload(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, largestUpload)
	name := "people.png"
	if f, header, err := r.FormFile("image"); err == nil {
		name = header.Filename
		_ = f.Close()
		s.mu.Lock()
		s.images = append(s.images, name)
		if len(s.images) > maxImages {
			s.images = s.images[1:]
		}
		s.mu.Unlock()
	} else if _, err := io.Copy(io.Discard, r.Body); err != nil {
		plain(w, http.StatusRequestEntityTooLarge, "413: Request Entity Too Large")
		return
	}
	answer(w, http.StatusOK, map[string]any{"name": name, "subfolder": "", "type": "input"})
}

// Bounds of uploads: bytes of one (max_upload_size of the features), and how many
// names are remembered.
const (
	largestUpload = 104857600
	maxImages     = 1000
)

func (s *Server) hasImage(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.images, name)
}

func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func (s *Server) stats(w http.ResponseWriter) {
	m := s.work.Memory()
	answer(w, http.StatusOK, map[string]any{
		"system": map[string]any{
			"os": "posix", "ram_total": 25276502016, "ram_free": 24738656256, "comfyui_version": "0.3.64", "required_frontend_version": "1.27.10",
			"installed_templates_version": nil, "required_templates_version": "0.1.95", "python_version": "3.11.2 (simulated)", "pytorch_version": "2.0.0 (simulated)",
			"embedded_python": false, "argv": []string{"main.py", "--simulated"},
		},
		"devices": []any{map[string]any{
			"name": "cuda:0 (simulated)", "type": "cuda", "index": 0, "vram_total": m.Total, "vram_free": m.Free, "torch_vram_total": m.TorchTotal, "torch_vram_free": m.TorchFree,
		}},
	})
}

func (s *Server) objectInfo(w http.ResponseWriter, name string) {
	all := map[string]any{}
	for n, c := range classes {
		if name == "" || name == n {
			all[n] = c.info()
		}
	}
	answer(w, http.StatusOK, all)
}
