// SPDX-License-Identifier: Apache-2.0

package simulation

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"mime/multipart"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// Users are people with old photos. Each has a socket to ComfyUI, uploads a photo,
// waits for it, views it for a while and uploads the next; sooner in busy hours.
type Users struct {
	base   string // of ComfyUI, or of what is in front of it
	client *http.Client
	rush   chan struct{}
	now    func() time.Time
}

// NewUsers makes users of a ComfyUI at a URL.
func NewUsers(base string) *Users {
	return &Users{base: base, client: &http.Client{Timeout: time.Minute}, rush: make(chan struct{}, 1), now: time.Now}
}

// At has it always be an hour of the day for them: what they send, and how often, depends on it.
func (u *Users) At(hour int) *Users {
	at := time.Date(2000, 1, 1, hour, 0, 0, 0, time.UTC)
	u.now = func() time.Time { return at }
	return u
}

// rushOf is how many photos come in a rush, and their side in pixels.
const (
	rushOf   = 8
	rushSide = 1280
)

// Rush sends eight photos of 1280 pixels at once, as in the article's failure.
// One that is asked for while another is still being uploaded is the same.
func (u *Users) Rush() {
	select {
	case u.rush <- struct{}{}:
	default:
	}
}

// Run works until the context ends.
func (u *Users) Run(ctx context.Context, n int, seed uint64) {
	defer u.client.CloseIdleConnections()
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { u.user(ctx, fmt.Sprintf("user-%d", i+1), rand.New(rand.NewPCG(seed, uint64(i)))) })
	}
	all.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-u.rush:
				for i := range rushOf {
					client := fmt.Sprintf("rush-%d", i%4+1)
					all.Go(func() {
						_ = u.submit(ctx, client, fmt.Sprintf("%s-%d.png", client, time.Now().UnixNano()), Photo{Side: rushSide})
					})
				}
			}
		}
	})
	all.Wait()
}

// user simulates one user; after an error it retries a second later.
func (u *Users) user(ctx context.Context, id string, random *rand.Rand) {
	for photo := 1; ctx.Err() == nil; {
		_ = u.session(ctx, id, random, &photo)
		pause(ctx, time.Second)
	}
}

func (u *Users) session(ctx context.Context, id string, random *rand.Rand, photo *int) error {
	return u.connected(ctx, id, func(conn *websocket.Conn) error {
		for ctx.Err() == nil {
			if err := u.colour(ctx, conn, id, *photo, Photo{Side: pick(random, u.now())}); err != nil {
				return err
			}
			*photo++
			pause(ctx, time.Duration(float64(500+random.IntN(2500))/max(rate(u.now()), 0.15))*time.Millisecond)
		}
		return nil
	})
}

// Photo is a photo that a user wants colourised.
type Photo struct {
	Side       int    // the longer one, in pixels
	Checkpoint string // empty: ddcolor_paper.pth
}

// Order submits photos of one user, one after the other.
func (u *Users) Order(ctx context.Context, id string, photos []Photo) error {
	return u.connected(ctx, id, func(conn *websocket.Conn) error {
		for i, p := range photos {
			if err := u.colour(ctx, conn, id, i+1, p); err != nil {
				return err
			}
		}
		return nil
	})
}

// Image is an image that a user wants generated.
type Image struct {
	Checkpoint         string
	Side, Batch, Steps int
	Seed               int64 // ComfyUI does not make the same image twice
}

// Generate asks for images of one user, one after the other.
func (u *Users) Generate(ctx context.Context, id string, images []Image) error {
	return u.connected(ctx, id, func(conn *websocket.Conn) error {
		for i := range images {
			if err := u.request(ctx, id, images[i].workflow()); err != nil {
				return err
			}
			if err := untilDone(ctx, conn); err != nil {
				return err
			}
		}
		return nil
	})
}

func (i *Image) workflow() workflow {
	text := func(text string) map[string]any {
		return map[string]any{"class_type": "CLIPTextEncode", "inputs": map[string]any{"text": text, "clip": link("1", 1)}}
	}
	return workflow{
		"1": {"class_type": "CheckpointLoaderSimple", "inputs": map[string]any{"ckpt_name": i.Checkpoint}},
		"2": text("a lighthouse in the fog"),
		"3": text("blurry"),
		"4": {"class_type": "EmptyLatentImage", "inputs": map[string]any{"width": i.Side, "height": i.Side, "batch_size": i.Batch}},
		"5": {"class_type": "KSampler", "inputs": map[string]any{
			"model": link("1", 0), "positive": link("2", 0), "negative": link("3", 0), "latent_image": link("4", 0),
			"seed": i.Seed, "steps": i.Steps, "cfg": 7.5, "sampler_name": "euler", "scheduler": "normal", "denoise": 1,
		}},
		"6": {"class_type": "VAEDecode", "inputs": map[string]any{"samples": link("5", 0), "vae": link("1", 2)}},
		"7": {"class_type": "SaveImage", "inputs": map[string]any{"images": link("6", 0), "filename_prefix": "image"}},
	}
}

// workflow are nodes by id, as POST /prompt takes them.
type workflow map[string]map[string]any

// link is an output of a node as another's input.
func link(id string, output int) []any { return []any{id, output} }

// request submits a workflow.
func (u *Users) request(ctx context.Context, client string, w workflow) error {
	body, err := json.Marshal(map[string]any{"client_id": client, "prompt": w})
	if err != nil {
		return err
	}
	return u.post(ctx, "/prompt", "application/json", bytes.NewReader(body))
}

// connected opens a user's socket for as long as do goes on.
func (u *Users) connected(ctx context.Context, id string, do func(*websocket.Conn) error) error {
	conn, response, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(u.base, "http")+"/ws?clientId="+id, &websocket.DialOptions{HTTPClient: u.client})
	if err != nil {
		if response != nil && response.Body != nil {
			_ = response.Body.Close()
		}
		return err
	}
	defer func() { _ = conn.CloseNow() }()
	conn.SetReadLimit(16 << 20)
	return do(conn)
}

// colour asks for a photo and waits for it.
func (u *Users) colour(ctx context.Context, conn *websocket.Conn, id string, number int, p Photo) error {
	if err := u.submit(ctx, id, fmt.Sprintf("%s-%d.png", id, number), p); err != nil {
		return err
	}
	return untilDone(ctx, conn)
}

// untilDone reads a user's socket until the prompt has ended.
func untilDone(ctx context.Context, conn *websocket.Conn) error {
	for {
		kind, raw, err := conn.Read(ctx)
		if err != nil {
			return err
		}
		var m struct {
			Type string `json:"type"`
			Data struct {
				Node *string `json:"node"`
				ID   string  `json:"prompt_id"`
			} `json:"data"`
		}
		if kind == websocket.MessageText && json.Unmarshal(raw, &m) == nil && m.Type == "executing" && m.Data.Node == nil && m.Data.ID != "" {
			return nil
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// submit uploads a photo and asks for its colours.
func (u *Users) submit(ctx context.Context, client, name string, p Photo) error {
	checkpoint := cmp.Or(p.Checkpoint, "ddcolor_paper.pth")
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	part, err := w.CreateFormFile("image", name)
	if err == nil {
		_, err = part.Write([]byte("the simulated server does not look at it"))
	}
	if err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	if err := u.post(ctx, "/upload/image", w.FormDataContentType(), &form); err != nil {
		return err
	}
	return u.request(ctx, client, workflow{
		"1": {"class_type": "LoadImage", "inputs": map[string]any{"image": name}},
		"2": {"class_type": "DDColor_Colorize", "inputs": map[string]any{"image": link("1", 0), "model_input_size": p.Side, "checkpoint": checkpoint}},
		"3": {"class_type": "SaveImage", "inputs": map[string]any{"images": link("2", 0), "filename_prefix": "colour"}},
	})
}

func (u *Users) post(ctx context.Context, path, kind string, body io.Reader) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, u.base+path, body)
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", kind)
	response, err := u.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, response.Body)
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("POST %s: %s", path, response.Status)
	}
	return nil
}
