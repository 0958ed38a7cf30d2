// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/metadata"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

const (
	// requestTimeout bounds each of the receiver's own requests.
	requestTimeout = 5 * time.Second
	// maxResponse bounds their responses, in bytes. They are read as they come and not
	// held.
	maxResponse = 1 << 30
)

// onThisHost reports whether an address is a loopback address.
func onThisHost(base *url.URL) bool {
	return base.Hostname() == "localhost" || net.ParseIP(base.Hostname()).IsLoopback()
}

// comfyServer makes the receiver's own requests to ComfyUI.
type comfyServer struct {
	base      *url.URL
	client    *http.Client
	telemetry *metadata.TelemetryBuilder
	bounds    protocol.Bounds
	// withoutJobs is true if the server has no /api/jobs (before 0.6).
	withoutJobs atomic.Bool
	// withoutLog is true if the server does not show its log.
	withoutLog atomic.Bool
	// notConnected is since when no connection could be opened; nil while one can.
	notConnected atomic.Pointer[time.Time]
}

// do sends a request, and notes whether the server can be reached.
func (s *comfyServer) do(request *http.Request) (*http.Response, error) {
	response, err := s.client.Do(request)
	var network *net.OpError
	switch {
	case errors.Is(err, context.Canceled): // by the receiver
	case errors.As(err, &network) && network.Op == "dial":
		now := time.Now()
		s.notConnected.CompareAndSwap(nil, &now)
	default:
		s.notConnected.Store(nil)
	}
	return response, err
}

// unreachable is since when no connection to the server could be opened; zero while one can.
func (s *comfyServer) unreachable() time.Time {
	if since := s.notConnected.Load(); since != nil {
		return *since
	}
	return time.Time{}
}

// errAnswered is the error of a request that the server answered, though not as expected.
var errAnswered = errors.New("unexpected answer")

// request calls parse with the body of the answer to GET target.
func (s *comfyServer) request(ctx context.Context, target string, parse func(io.Reader) error) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.base.String()+target, http.NoBody)
	if err != nil {
		return err
	}
	response, err := s.do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%w: the status is %s", errAnswered, response.Status)
	}
	body := &io.LimitedReader{R: response.Body, N: maxResponse}
	err = parse(body)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case body.N <= 0:
		return fmt.Errorf("%w: the body exceeds %d bytes", errAnswered, maxResponse)
	case err != nil:
		return fmt.Errorf("%w: %w", errAnswered, err)
	}
	return nil
}

// read requests a path below the server's address and parses the response. It counts a
// failed request. The error is errAnswered if the server answered.
func read[T any](ctx context.Context, s *comfyServer, path, query string, parse func(io.Reader) (T, error)) (v T, err error) {
	err = s.request(ctx, path+query, func(body io.Reader) (err error) {
		v, err = parse(body)
		return err
	})
	if err != nil {
		if ctx.Err() == nil {
			s.telemetry.ReceiverComfyuiUpstreamErrors.Add(context.Background(), 1)
		}
		return v, fmt.Errorf("request %s of ComfyUI: %w", path, err)
	}
	return v, nil
}

// length requests the length of the queue, which costs the server little.
func (s *comfyServer) length(ctx context.Context) (int, error) {
	return read(ctx, s, "/prompt", "", protocol.ParseLength)
}

// queue requests the queue: the ids of all prompts, and those that are not known.
func (s *comfyServer) queue(ctx context.Context, known protocol.Known) (protocol.Queue, error) {
	return read(ctx, s, "/queue", "", func(body io.Reader) (protocol.Queue, error) { return s.bounds.ParseQueue(body, known) })
}

// everything is a [protocol.Known] that reads ids only.
type everything struct{}

func (everything) Has(string) bool { return true }

// queued requests where the prompts are that are queued or run, by their ids. The jobs, where the server
// has them, come without the prompts themselves.
func (s *comfyServer) queued(ctx context.Context) (map[string]protocol.Place, error) {
	if !s.withoutJobs.Load() {
		var ids map[string]protocol.Place
		err := s.request(ctx, "/api/jobs?status=pending,in_progress", func(body io.Reader) (err error) {
			ids, err = protocol.ParseJobs(body)
			return err
		})
		if err == nil {
			return ids, nil
		}
		if errors.Is(err, errAnswered) {
			s.withoutJobs.Store(true)
		}
	}
	q, err := s.queue(ctx, everything{})
	return q.IDs, err
}

// history requests entries of the history that are not known.
func (s *comfyServer) history(ctx context.Context, query string, known protocol.Known) (protocol.History, error) {
	return read(ctx, s, "/history", query, func(body io.Reader) (protocol.History, error) { return s.bounds.ParseHistory(body, known) })
}

// stats requests the server's memory.
func (s *comfyServer) stats(ctx context.Context) (stats protocol.Stats, err error) {
	err = s.request(ctx, "/system_stats", func(body io.Reader) (err error) {
		stats, err = s.bounds.ParseSystemStats(body)
		return err
	})
	return stats, err
}

// log requests what matters of the server's log. A server that does not show it is not asked
// again until it restarts.
func (s *comfyServer) log(ctx context.Context) (l protocol.Log, err error) {
	if s.withoutLog.Load() {
		return l, nil
	}
	err = s.request(ctx, "/internal/logs/raw", func(body io.Reader) (err error) {
		l, err = protocol.ParseLog(body)
		return err
	})
	if errors.Is(err, errAnswered) {
		s.withoutLog.Store(true)
	}
	return l, err
}

// free has the server unload its models and forget its nodes' results, once no prompt runs.
func (s *comfyServer) free(ctx context.Context) error {
	body := strings.NewReader(`{"unload_models": true, "free_memory": true}`)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.base.String()+"/free", body)
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := s.do(request)
	if err != nil {
		return fmt.Errorf("free the server's memory: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode >= 300 {
		return fmt.Errorf("free the server's memory: %w: the status is %s", errAnswered, response.Status)
	}
	return nil
}

// rests reports whether the server's queue is empty, and whether it has not run a prompt
// either: its history is empty, too.
func (s *comfyServer) rests(ctx context.Context) (rests, fresh bool) {
	history, err := s.history(ctx, "?max_items=1", everything{})
	if err != nil {
		return false, false
	}
	length, err := s.length(ctx)
	rests = err == nil && length == 0
	return rests, rests && history.Entries == 0
}

// isAPINode requests whether nodes of a class run elsewhere.
func (s *comfyServer) isAPINode(ctx context.Context, class string) (isAPI bool, err error) {
	err = s.request(ctx, "/object_info/"+url.PathEscape(class), func(body io.Reader) (err error) {
		isAPI, err = protocol.ParseAPINode(body)
		return err
	})
	return isAPI, err
}

var errNotInHistory = errors.New("the history does not hold the prompt")

// maxPath bounds the ids that are requested by path: servers limit the length of a request
// line. Longer ones are looked for among the newest entries.
const (
	maxPath      = 4096
	newestByPage = 64
)

// only is a [protocol.Known] that reads one prompt.
type only string

func (o only) Has(id string) bool { return id != string(o) }

// finished requests one prompt's entry of the history.
func (s *comfyServer) finished(ctx context.Context, id string) (*protocol.Finished, error) {
	query := "/" + url.PathEscape(id)
	if len(query) > maxPath {
		query = "?max_items=" + strconv.Itoa(newestByPage)
	}
	all, err := s.history(ctx, query, only(id))
	if err != nil {
		return nil, err
	}
	f := all.Finished[id]
	if f == nil {
		return nil, errNotInHistory
	}
	return f, nil
}

// candidate is a prompt of the server that may be one whose answer has not been seen.
type candidate struct {
	*protocol.Submission
	// at is when the server accepted the prompt, or else when it started to run it; zero if
	// it has not.
	at time.Time
}

// maxFound bounds the entries of the history among which prompts without an answer are
// looked for.
const maxFound = 1024

// candidates are the prompts of the queue and the history that are not known, in the order in
// which the server accepted them.
func (s *comfyServer) candidates(ctx context.Context, known protocol.Known) ([]candidate, error) {
	queue, err := s.queue(ctx, known)
	if err != nil {
		return nil, err
	}
	history, err := s.history(ctx, "?max_items="+strconv.Itoa(maxFound), known)
	if err != nil {
		return nil, err
	}
	all := make([]candidate, 0, len(queue.Prompts)+len(history.Finished))
	for _, f := range history.Finished {
		all = append(all, candidate{&f.Submission, cmp.Or(f.Created, f.Start())})
	}
	for i := range queue.Prompts {
		all = append(all, candidate{&queue.Prompts[i], queue.Prompts[i].Created})
	}
	slices.SortStableFunc(all, func(a, b candidate) int {
		if a.at.IsZero() != b.at.IsZero() {
			return cmp.Compare(b.at.UnixMilli(), a.at.UnixMilli()) // those that have not started are last
		}
		return a.at.Compare(b.at)
	})
	return all, nil
}

// clockSlack is how far the clock of a server on another host may be behind this one's.
const clockSlack = time.Second

// is reports whether the candidate is the prompt that was sent: by its id if the caller chose
// it, else by client and content, and not one that the server had accepted before.
func (s *comfyServer) is(sent *prompt.Prompt, c candidate) bool {
	if sent.ID != "" {
		return sent.ID == c.PromptID
	}
	return sent.Submission.ClientID == c.ClientID && sent.Submission.Content == c.Content && (c.at.IsZero() || !c.at.Before(s.earliest(sent)))
}

// earliest is when the server can have accepted a prompt at the earliest, by its clock.
func (s *comfyServer) earliest(sent *prompt.Prompt) time.Time {
	at := sent.Received.Truncate(time.Millisecond) // as the server's times are
	if !onThisHost(s.base) {
		at = at.Add(-clockSlack)
	}
	return at
}

// maxDelay is how long after its request a prompt that the server has changed is looked for.
const maxDelay = 5 * time.Second

// mayBe reports whether the candidate may be the prompt that was sent, though its content
// differs: a server replaces nodes, and converts inputs.
func (s *comfyServer) mayBe(sent *prompt.Prompt, c candidate) bool {
	return sent.ID == "" && sent.Submission.ClientID == c.ClientID && sent.Submission.NodeIDs == c.NodeIDs &&
		!c.at.Before(s.earliest(sent)) && c.at.Sub(sent.Received) <= maxDelay
}
