// SPDX-License-Identifier: Apache-2.0

package comfyreplay

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"
)

// Drive plays the clients' side of a recording against a server or a proxy at
// base, and compares everything that comes back.
func Drive(ctx context.Context, r *Recording, base string, speed float64, compress bool) error {
	return DriveWith(ctx, http.DefaultClient, r, base, speed, compress)
}

// DriveWith is Drive with an HTTP client, for example one on Pipes.
func DriveWith(ctx context.Context, client *http.Client, r *Recording, base string, speed float64, compress bool) error {
	ctx, cancel := context.WithTimeout(ctx, 3*patience)
	defer cancel()
	d := &driver{client: client, recording: r, base: base, speed: speed, compress: compress, sockets: map[string]*websocket.Conn{}, answers: map[string][]chan answer{}}
	defer func() {
		for _, c := range d.sockets {
			_ = c.CloseNow()
		}
	}()
	begin := time.Now()
	for i := range r.Lines {
		if err := d.line(ctx, begin, i); err != nil {
			return fmt.Errorf("%s, line %d: %w", r.Name, i+1, err)
		}
	}
	return nil
}

type driver struct {
	client    *http.Client
	recording *Recording
	base      string
	speed     float64
	compress  bool
	sockets   map[string]*websocket.Conn
	answers   map[string][]chan answer
}

type answer struct {
	status int
	kind   string
	body   []byte
	err    error
}

func (d *driver) line(ctx context.Context, begin time.Time, i int) error {
	l := &d.recording.Lines[i]
	switch l.Kind {
	case "ws_open", "ws_send", "request", "ws_closed":
		wait := time.NewTimer(time.Until(begin.Add(time.Duration(float64(d.recording.at(i)) / d.speed))))
		defer wait.Stop()
		select {
		case <-wait.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	switch l.Kind {
	case "ws_open":
		options := &websocket.DialOptions{HTTPClient: d.client, CompressionMode: websocket.CompressionDisabled, HTTPHeader: http.Header{"X-Recorded": {"yes"}}}
		if d.compress {
			options.CompressionMode = websocket.CompressionContextTakeover
		}
		c, response, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(d.base, "http")+l.Path, options)
		if err != nil {
			return err
		}
		if response.Body != nil {
			_ = response.Body.Close()
		}
		c.SetReadLimit(16 << 20)
		d.sockets[l.Client] = c
	case "ws_send":
		return d.sockets[l.Client].Write(ctx, websocket.MessageText, l.Data)
	case "request":
		c := make(chan answer, 1)
		d.answers[l.Client] = append(d.answers[l.Client], c)
		go func() { c <- d.ask(ctx, l) }()
	case "response":
		c := d.answers[l.Client][0]
		d.answers[l.Client] = d.answers[l.Client][1:]
		return (<-c).compare(l)
	case "ws_text", "ws_binary":
		kind, got, err := d.sockets[l.Client].Read(ctx)
		if err != nil {
			return err
		}
		want := []byte(l.Data)
		if l.Kind == "ws_binary" {
			want = l.binary()
		}
		if (kind == websocket.MessageBinary) != (l.Kind == "ws_binary") || !bytes.Equal(got, want) {
			return fmt.Errorf("another frame came: %.200q, not %.200q", got, want)
		}
	case "ws_closed":
		return d.sockets[l.Client].Close(websocket.StatusNormalClosure, "")
	}
	return nil
}

func (d *driver) ask(ctx context.Context, l *Line) answer {
	request, err := http.NewRequestWithContext(ctx, l.Method, d.base+l.Path, bytes.NewReader(l.Content()))
	if err != nil {
		return answer{err: err}
	}
	request.Header.Set("X-Recorded", "yes")
	if l.Content() != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := d.client.Do(request)
	if err != nil {
		return answer{err: err}
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, response.Header.Get("Content-Type"), body, err}
}

func (a answer) compare(l *Line) error {
	switch {
	case a.err != nil:
		return a.err
	case a.status != l.Status:
		return fmt.Errorf("the status is %d, not %d: %.200s", a.status, l.Status, a.body)
	case a.kind != l.ContentType:
		return fmt.Errorf("the content type is %q, not %q", a.kind, l.ContentType)
	case !bytes.Equal(a.body, l.Content()):
		return fmt.Errorf("another body came: %.200q, not %.200q", a.body, l.Content())
	}
	return nil
}

// Prompts are the ids of the prompts that the recording's server accepted.
func (r *Recording) Prompts() (ids []string) {
	for i := range r.Lines {
		var a struct {
			ID string `json:"prompt_id"`
		}
		if l := &r.Lines[i]; l.Kind == "response" && json.Unmarshal(l.Body, &a) == nil && a.ID != "" {
			ids = append(ids, a.ID)
		}
	}
	return ids
}
