// SPDX-License-Identifier: Apache-2.0

package overload

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"strconv"
	"time"

	"github.com/coder/websocket"

	"github.com/otelcol-gpu/otelcol-gpu/lab/law"
)

// client is a person with one photo.
type client struct {
	*Request
	base    string // the address that it reaches
	http    *http.Client
	records *ledger
	class   string // its name
	forges  bool   // its workflow says what it is, and it claims something else
	// impatient is true if it does not wait for its Retry-After.
	impatient bool
}

// impatience is after what time an impatient client submits its prompt again.
const impatience = time.Second

// batchNode is a node of the batch class's workflow alone, in a run in which workflows tell classes apart.
const batchNode = "WithPreview"

// client makes the client of a request.
func (n *Node) client(r *Request, class string) *client {
	front := n.fronts[r.Server]
	return &client{Request: r, base: front.url, http: &http.Client{Transport: front.transport}, records: n.ledger, class: class, forges: n.Plan.ByWorkflow && r.Class != 0,
		impatient: float64(r.Number%100) < 100*n.Plan.Impatient,
	}
}

// run is a client's life: it opens a socket, uploads, submits until the prompt is accepted, and waits
// for the image. When its time is up it leaves, whatever the server does.
func (c *client) run(ctx context.Context) {
	if c.Limit > 0 {
		limited, cancel := context.WithTimeout(ctx, c.Limit)
		defer cancel()
		ctx = limited
	}
	c.records.came(c.Request)
	err := c.try(ctx)
	c.records.left(c.Request, err)
}

// errFailed is what a client hears of a prompt that made no image, errRefused of one that can never
// be accepted.
var (
	errFailed  = errors.New("the prompt failed")
	errRefused = errors.New("the prompt was refused for good")
)

func (c *client) try(ctx context.Context) error {
	id := "client" + c.ID
	conn, response, err := websocket.Dial(ctx, "ws"+c.base[len("http"):]+"/ws?clientId="+id, &websocket.DialOptions{HTTPClient: c.http})
	if err != nil {
		if response != nil && response.Body != nil {
			_ = response.Body.Close()
		}
		return err
	}
	conn.SetReadLimit(1 << 20)
	ended := make(chan error, 1)
	reading := make(chan struct{})
	go func() { // it reads whatever the client waits for, or the server would close the socket
		defer close(reading)
		ended <- untilEnded(ctx, conn, c.ID)
	}()
	defer func() {
		_ = conn.CloseNow()
		<-reading
	}()
	if err := c.upload(ctx); err != nil {
		return err
	}
	if err := c.submitUntilAccepted(ctx, id); err != nil {
		return err
	}
	select {
	case err := <-ended:
		if err != nil {
			return err
		}
	case <-ctx.Done():
		return ctx.Err()
	}
	return c.view(ctx)
}

// untilEnded reads the socket until the prompt has ended.
func untilEnded(ctx context.Context, conn *websocket.Conn, prompt string) error {
	for {
		kind, raw, err := conn.Read(ctx)
		if err != nil {
			return err
		}
		var m struct {
			Type string `json:"type"`
			Data struct {
				ID string `json:"prompt_id"`
			} `json:"data"`
		}
		if kind != websocket.MessageText || !bytes.Contains(raw, []byte(prompt)) || json.Unmarshal(raw, &m) != nil || m.Data.ID != prompt {
			continue
		}
		switch m.Type {
		case "execution_success":
			return nil
		case "execution_error", "execution_interrupted":
			return errFailed
		}
	}
}

// image is what clients upload: the simulated server does not decode it.
var image = bytes.Repeat([]byte("photo"), 100)

func (c *client) upload(ctx context.Context) error {
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	part, err := w.CreateFormFile("image", c.ID+".png")
	if err == nil {
		_, err = part.Write(image)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return err
	}
	status, _, body, err := c.ask(ctx, http.MethodPost, "/upload/image", w.FormDataContentType(), &form)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("upload: status %d: %s", status, body)
	}
	return err
}

// Refusal is the body of a refused prompt, as far as a client reads it.
type Refusal struct {
	Error struct {
		Type    string `json:"type"`
		Message string `json:"message"`
		Extra   struct {
			Reason        string   `json:"reason"`
			RetryAfter    float64  `json:"retry_after_s"`
			PredictedWait *float64 `json:"predicted_wait_s"`
			MaxSide       int      `json:"max_side"`
		} `json:"extra_info"`
	} `json:"error"`
}

// submitUntilAccepted submits the prompt, and after a refusal again when its Retry-After has passed.
func (c *client) submitUntilAccepted(ctx context.Context, id string) error {
	claims, colorized := map[string]any{"task_class": c.class}, "2"
	nodes := map[string]any{
		"1": map[string]any{"class_type": "LoadImage", "inputs": map[string]any{"image": c.ID + ".png"}},
		"2": map[string]any{"class_type": "DDColor_Colorize", "inputs": map[string]any{"image": []any{"1", 0}, "model_input_size": c.Load.Side, "checkpoint": c.Load.Checkpoint}},
	}
	if c.forges {
		claims, colorized = map[string]any{"task_class": law.Core}, "4"
		nodes[colorized] = map[string]any{"class_type": batchNode, "inputs": map[string]any{"image": []any{"2", 0}, "steps": 0}}
	}
	nodes["3"] = map[string]any{"class_type": "SaveImage", "inputs": map[string]any{"images": []any{colorized, 0}, "filename_prefix": "colour"}}
	body, err := json.Marshal(map[string]any{"client_id": id, "prompt_id": c.ID, "extra_data": claims, "prompt": nodes})
	if err != nil {
		return err
	}
	for {
		c.records.submits(c.Request)
		status, header, raw, err := c.ask(ctx, http.MethodPost, "/prompt", "application/json", bytes.NewReader(body))
		switch {
		case err != nil:
			return err
		case status == http.StatusOK:
			c.records.accepted(c.Request)
			return nil
		}
		var refusal Refusal
		_ = json.Unmarshal(raw, &refusal)
		c.records.refused(c.Request, status, &refusal)
		after, err := strconv.Atoi(header.Get("Retry-After"))
		if err != nil || status == http.StatusBadRequest {
			return fmt.Errorf("%w: status %d: %s", errRefused, status, raw)
		}
		pause := time.Duration(after) * time.Second
		if c.impatient {
			pause = min(pause, impatience)
		}
		if end, limited := ctx.Deadline(); limited && !time.Now().Add(pause).Before(end) {
			<-ctx.Done() // another try would be too late
			return ctx.Err()
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// view fetches the image.
func (c *client) view(ctx context.Context) error {
	status, _, _, err := c.ask(ctx, http.MethodGet, "/view?filename=colour_00001_.png&type=output&subfolder=", "", http.NoBody)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("view: status %d", status)
	}
	return err
}

// ask sends a request and reads the whole answer.
func (c *client) ask(ctx context.Context, method, path, kind string, body io.Reader) (status int, header http.Header, answer []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return 0, nil, nil, err
	}
	if kind != "" {
		request.Header.Set("Content-Type", kind)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return 0, nil, nil, err
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(response.Body)
	return response.StatusCode, response.Header, answer, err
}
