// SPDX-License-Identifier: Apache-2.0

package comfyreplay

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// Server plays the server's side of a recording. Requests that were not recorded, such
// as those of the receiver itself, are answered from the state of the recording.
type Server struct {
	// URL is the server's address; it is empty for ServeOn.
	URL       string
	http      *http.Server
	t         testing.TB
	recording *Recording
	speed     float64
	compress  bool // negotiate permessage-deflate

	opened   chan *peer
	requests chan *asked
	done     chan struct{}

	mu        sync.Mutex
	peers     map[string]*peer
	bystander []*peer // sockets that the recording does not know
	alive     map[string]bool
	accepted  map[string]json.RawMessage // open prompts, as /queue shows them
	over      map[string]bool
	covered   map[string]bool
	err       error
}

type peer struct {
	path string
	conn *websocket.Conn
}

type asked struct {
	r      *http.Request
	body   []byte
	answer chan *Line
}

const patience = 20 * time.Second

// Serve starts the server on a port of its own. speed shortens the recording's pauses.
func Serve(t testing.TB, r *Recording, speed float64, compress bool) *Server {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := ServeOn(t, listener, r, speed, compress)
	s.URL = "http://" + listener.Addr().String()
	return s
}

// ServeOn is Serve on a listener, for example Pipes.
func ServeOn(t testing.TB, listener net.Listener, r *Recording, speed float64, compress bool) *Server {
	t.Helper()
	s := &Server{
		t: t, recording: r, speed: speed, compress: compress,
		opened: make(chan *peer, 64), requests: make(chan *asked, 64), done: make(chan struct{}),
		peers: map[string]*peer{}, alive: map[string]bool{}, accepted: map[string]json.RawMessage{}, over: map[string]bool{}, covered: map[string]bool{},
	}
	s.http = &http.Server{Handler: s, ReadHeaderTimeout: patience}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.http.Serve(listener)
	}()
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(s.done)
		if err := s.play(ctx); err != nil && ctx.Err() == nil {
			s.mu.Lock()
			s.err = err
			s.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-s.done
		s.mu.Lock()
		all := append([]*peer{}, s.bystander...)
		for _, p := range s.peers {
			all = append(all, p)
		}
		s.mu.Unlock()
		for _, p := range all {
			_ = p.conn.CloseNow()
		}
		_ = s.http.Close()
		<-served
	})
	return s
}

// Watched reports whether a bystander's socket is open, such as the receiver's own.
func (s *Server) Watched() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.bystander) > 0
}

// Done waits until the recording is played to its end.
func (s *Server) Done() error {
	select {
	case <-s.done:
	case <-time.After(patience):
		return fmt.Errorf("%s: the server waits for something that does not come", s.recording.Name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		s.upgrade(w, r)
		return
	}
	body, _ := io.ReadAll(r.Body)
	if r.Header.Get("X-Forwarded-For") == "" && r.Header.Get("X-Recorded") == "" {
		s.answerBystander(w, r) // sent by the receiver itself
		return
	}
	a := &asked{r: r, body: body, answer: make(chan *Line, 1)}
	select {
	case s.requests <- a:
	case <-s.done:
		s.answerBystander(w, r)
		return
	}
	select {
	case l := <-a.answer:
		w.Header().Set("Content-Type", l.ContentType)
		w.WriteHeader(l.Status)
		_, _ = w.Write(l.Content())
	case <-r.Context().Done():
	case <-time.After(patience):
		w.WriteHeader(http.StatusGatewayTimeout)
	}
}

// answerBystander answers a request that is not in the recording, such as the receiver's.
func (s *Server) answerBystander(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	path := strings.TrimPrefix(r.URL.Path, "/api")
	id, isHistory := strings.CutPrefix(path, "/history/")
	switch {
	case path == "/prompt":
		_ = json.NewEncoder(w).Encode(map[string]any{"exec_info": map[string]any{"queue_remaining": len(s.accepted)}})
	case path == "/queue":
		running := make([]json.RawMessage, 0, len(s.accepted))
		for _, p := range s.accepted {
			running = append(running, p)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"queue_running": running, "queue_pending": []any{}})
	case isHistory:
		entry := map[string]json.RawMessage{}
		if s.over[id] {
			if h := s.history(id); h != nil {
				entry[id] = h
			}
		}
		_ = json.NewEncoder(w).Encode(entry)
	case path == "/system_stats":
		_, _ = w.Write([]byte(`{"system":{},"devices":[{"name":"cuda:0","type":"cuda","index":0,"vram_total":12878086144,"vram_free":12000000000,"torch_vram_total":0,"torch_vram_free":0}]}`))
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// history is a prompt's entry of the history, if the recording holds one.
func (s *Server) history(id string) json.RawMessage {
	for i := range s.recording.Lines {
		l := &s.recording.Lines[i]
		if l.Kind != "response" {
			continue
		}
		var entries map[string]json.RawMessage
		if json.Unmarshal(l.Body, &entries) == nil && entries[id] != nil && strings.Contains(string(entries[id]), `"status"`) {
			return entries[id]
		}
	}
	return nil
}

func (s *Server) upgrade(w http.ResponseWriter, r *http.Request) {
	options := &websocket.AcceptOptions{InsecureSkipVerify: true, CompressionMode: websocket.CompressionDisabled}
	if s.compress {
		options.CompressionMode, options.CompressionThreshold = websocket.CompressionContextTakeover, 64
	}
	conn, err := websocket.Accept(w, r, options)
	if err != nil {
		return
	}
	conn.SetReadLimit(16 << 20)
	path := r.URL.Path
	if r.URL.RawQuery != "" {
		path += "?" + r.URL.RawQuery
	}
	p := &peer{path: path, conn: conn}
	if strings.Contains(path, "clientId=otelcol-gpu-") {
		s.mu.Lock()
		s.bystander = append(s.bystander, p)
		s.mu.Unlock()
		_ = s.send(p, websocket.MessageText, []byte(`{"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 0}}, "sid": "x"}}`))
	} else {
		s.opened <- p
	}
	// Closing handshakes and pings need a reader.
	for {
		if _, _, err := conn.Read(context.Background()); err != nil {
			return
		}
	}
}

func (s *Server) send(p *peer, kind websocket.MessageType, b []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return p.conn.Write(ctx, kind, b)
}

// play walks through the recording.
func (s *Server) play(ctx context.Context) error {
	var waiting []*asked
	var labels []string
	var begin time.Time // when the first client came
	for i := range s.recording.Lines {
		l := &s.recording.Lines[i]
		if i == 1 {
			begin = time.Now().Add(-time.Duration(float64(s.recording.at(1)) / s.speed))
		}
		if err := s.until(ctx, begin, i, l); err != nil {
			return err
		}
		switch l.Kind {
		case "ws_open":
			select {
			case p := <-s.opened:
				s.mu.Lock()
				s.peers[l.Client], s.alive[l.Client] = p, true
				s.mu.Unlock()
				if p.path != l.Path {
					return fmt.Errorf("line %d: a socket was opened at %s, not %s", i+1, p.path, l.Path)
				}
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(patience):
				return fmt.Errorf("line %d: no socket is opened", i+1)
			}
		case "request":
			select {
			case a := <-s.requests:
				if err := same(a, l); err != nil {
					return fmt.Errorf("line %d: %w", i+1, err)
				}
				waiting, labels = append(waiting, a), append(labels, l.Client)
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(patience):
				return fmt.Errorf("line %d: no request for %s %s arrives", i+1, l.Method, l.Path)
			}
		case "response":
			at := 0
			for j, label := range labels {
				if label == l.Client {
					at = j
					break
				}
			}
			s.accept(waiting[at], l)
			waiting[at].answer <- l
			waiting, labels = append(waiting[:at], waiting[at+1:]...), append(labels[:at], labels[at+1:]...)
		case "ws_text", "ws_binary":
			s.sendLine(l)
		case "ws_closed":
			s.mu.Lock()
			s.alive[l.Client] = false
			s.mu.Unlock()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.accepted { // whatever is open has ended by now
		delete(s.accepted, id)
		s.over[id] = true
	}
	return nil
}

// until waits for a line's time.
func (s *Server) until(ctx context.Context, begin time.Time, i int, l *Line) error {
	if l.Kind != "ws_text" && l.Kind != "ws_binary" && l.Kind != "response" {
		return nil
	}
	wait := time.NewTimer(time.Until(begin.Add(time.Duration(float64(s.recording.at(i)) / s.speed))))
	defer wait.Stop()
	select {
	case <-wait.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func same(a *asked, l *Line) error {
	path := a.r.URL.Path
	if a.r.URL.RawQuery != "" {
		path += "?" + a.r.URL.RawQuery
	}
	if a.r.Method != l.Method || path != l.Path {
		return fmt.Errorf("%s %s was asked, not %s %s", a.r.Method, path, l.Method, l.Path)
	}
	if string(a.body) != string(l.Content()) {
		return fmt.Errorf("%s %s came with another body: %.200q, not %.200q", l.Method, l.Path, a.body, l.Content())
	}
	return nil
}

// accept notes a prompt that the server has taken.
func (s *Server) accept(a *asked, l *Line) {
	if l.Status != http.StatusOK {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch strings.TrimPrefix(a.r.URL.Path, "/api") {
	case "/prompt":
		var answer struct {
			ID string `json:"prompt_id"`
		}
		var body struct {
			Prompt   json.RawMessage `json:"prompt"`
			ClientID string          `json:"client_id"`
		}
		if json.Unmarshal(l.Body, &answer) != nil || answer.ID == "" {
			return
		}
		_ = json.Unmarshal(a.body, &body)
		s.accepted[answer.ID] = json.RawMessage(fmt.Sprintf(`[0,%q,{},{},[]]`, answer.ID))
		s.covered[answer.ID] = body.ClientID != ""
	case "/queue":
		var removal struct {
			Clear  bool     `json:"clear"`
			Delete []string `json:"delete"`
		}
		_ = json.Unmarshal(a.body, &removal)
		for _, id := range removal.Delete {
			delete(s.accepted, id)
			s.over[id] = true
		}
		if removal.Clear {
			for id := range s.accepted {
				if !s.began(id) {
					delete(s.accepted, id)
					s.over[id] = true
				}
			}
		}
	}
}

// began reports whether a prompt's execution starts in the recording.
func (s *Server) began(id string) bool {
	for i := range s.recording.Lines {
		m := s.recording.Lines[i].message()
		if m.Data.PromptID == id && m.Type == "execution_start" {
			return true
		}
	}
	return false
}

// sendLine sends a frame to the one it was for, and to the bystanders what goes to all.
func (s *Server) sendLine(l *Line) {
	m := l.message()
	s.mu.Lock()
	p, alive := s.peers[l.Client], s.alive[l.Client]
	all := m.Type == "status" || !s.covered[m.Data.PromptID] && (m.Type == "progress" || m.Type == "progress_state")
	var bystanders []*peer
	if all {
		bystanders = append(bystanders, s.bystander...)
	}
	switch m.Type {
	case "execution_success", "execution_error", "execution_interrupted":
		delete(s.accepted, m.Data.PromptID)
		s.over[m.Data.PromptID] = true
	case "status":
		if strings.Contains(string(l.Data), `"queue_remaining": 0`) {
			for id, covered := range s.covered {
				if !covered {
					delete(s.accepted, id)
					s.over[id] = true
				}
			}
		}
	}
	s.mu.Unlock()
	if p != nil && alive {
		kind, b := websocket.MessageText, []byte(l.Data)
		if l.Kind == "ws_binary" {
			kind, b = websocket.MessageBinary, l.binary()
		}
		_ = s.send(p, kind, b)
	}
	for _, b := range bystanders {
		_ = s.send(b, websocket.MessageText, l.Data)
	}
}

// binary is a frame of the recorded length with the recorded head; the recording
// has no more of it.
func (l *Line) binary() []byte {
	b := make([]byte, l.Length)
	head, _ := hex.DecodeString(l.Head)
	copy(b, head)
	for i := len(head); i < len(b); i++ {
		b[i] = byte(i * 31)
	}
	return b
}
