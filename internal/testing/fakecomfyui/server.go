// SPDX-License-Identifier: Apache-2.0

package fakecomfyui

import (
	"encoding/json"
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
	// Busy returns for how long the server's event loop is busy with other work before it answers a
	// request; it is called for each and must not block. Nil answers at once. Set it before the
	// server is used.
	Busy func() time.Duration
	// Done is called with each node and each prompt that was executed, with its true times.
	// It may be nil, and must not block.
	Done func(Executed)

	work    Work
	options Options
	wake    chan struct{}

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
	freeing   *freeing        // what /free asked for while a prompt ran
	images    []string        // uploaded
	lines     []any           // of the log, at most maxLog
	followers map[string]bool // client ids that get the server's log; false before their first lines
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

// NewServer makes a server of version 0.3.64 whose nodes do their work on a Work.
func NewServer(work Work) *Server { return NewServerWith(work, Options{}) }

// NewServerWith is NewServer with options.
func NewServerWith(work Work, options Options) *Server {
	options.complete()
	return &Server{
		work: work, options: options, wake: make(chan struct{}, 1), history: map[string]*entry{}, sockets: map[string]*socket{}, cache: map[string]bool{},
		followers: map[string]bool{},
	}
}

// ServeHTTP answers the API, with and without the prefix /api.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.foreign(r) {
		w.Header().Set("Content-Type", "application/octet-stream")
		w.WriteHeader(http.StatusForbidden)
		return
	}
	path := r.URL.Path
	if rest, ok := strings.CutPrefix(path, "/api/"); ok {
		path = "/" + rest
	}
	if path == "/ws" {
		s.serveSocket(w, r)
		return
	}
	if s.Busy != nil {
		_ = waitSteps(r.Context(), s.Busy(), 1, func(int, int) error { return nil })
	}
	whole := &response{header: w.Header()}
	if !s.options.newer() || !s.serveNewer(whole, r, path) {
		s.serve(whole, r, path)
	}
	whole.send(w, r, s.options.Compress)
}

// serve answers what both versions know.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, path string) {
	switch id, _ := strings.CutPrefix(path, "/history/"); {
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
	case r.URL.Path == "/internal/logs/raw": // this one does not exist with /api
		s.showLog(w)
	case path == "/free":
		s.free(w, r)
	case path == "/system_stats":
		s.stats(w)
	case path == "/features":
		answer(w, http.StatusOK, s.features())
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

// features are what the server says that it can do, over HTTP and over sockets.
func (s *Server) features() map[string]any {
	all := map[string]any{"supports_preview_metadata": true, "max_upload_size": largestUpload}
	if s.options.newer() {
		all["supports_model_type_tags"], all["node_replacements"], all["assets"] = true, true, false
		all["extension"] = map[string]any{"manager": map[string]any{"supports_v4": true}}
	}
	return all
}

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
		PromptID any             `json:"prompt_id"`
		Extra    map[string]any  `json:"extra_data"`
		Front    bool            `json:"front"`
		Number   *float64        `json:"number"`
		Targets  []string        `json:"partial_execution_targets"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
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
	if len(body.Prompt) == 0 {
		answer(w, http.StatusBadRequest, reject("no_prompt", "No prompt provided", "No prompt provided", nil))
		return
	}
	g, err := readGraph(body.Prompt)
	if err != nil {
		plain(w, http.StatusInternalServerError, "500 Internal Server Error\n\nServer got itself in trouble")
		return
	}
	id, ok := s.promptID(body.PromptID)
	if !ok {
		answer(w, http.StatusBadRequest, reject("invalid_prompt_id", "prompt_id must be a valid UUID",
			"prompt_id must be a UUID string in canonical lowercase hyphenated form; omit it to let the server generate one", nil))
		return
	}
	if !s.options.newer() {
		body.Targets = nil
	}
	outputs, nodes, refused := g.validate(s.hasImage, body.Targets)
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
	if s.options.newer() {
		body.Extra["create_time"] = s.options.Now().UnixMilli()
	}
	s.log(levelInfo, "got prompt")
	s.put(&item{number: number, id: id, prompt: body.Prompt, extra: body.Extra, graph: g, outputs: outputs})
	answer(w, http.StatusOK, map[string]any{"prompt_id": id, "number": number, "node_errors": nodes})
}

// promptID is the id that a client chose for its prompt, or a new one. It is not ok if the
// server's version refuses it.
func (s *Server) promptID(given any) (id string, ok bool) {
	id, isText := given.(string)
	switch {
	case given == nil, id == "" && !s.options.newer():
		return s.options.ID(), true
	case s.options.newer() && !validID(id):
		return "", false
	}
	return id, isText
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

func (s *Server) objectInfo(w http.ResponseWriter, name string) {
	all := map[string]any{}
	for n, c := range classes {
		if name == "" || name == n {
			all[n] = c.info(s.options.newer())
		}
	}
	answer(w, http.StatusOK, all)
}
