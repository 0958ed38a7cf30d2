// SPDX-License-Identifier: Apache-2.0

package fakecomfyui

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// The states of a job.
const (
	pending    = "pending"
	inProgress = "in_progress"
	completed  = "completed"
	failed     = "failed"
	cancelled  = "cancelled"
)

var jobStates = []string{pending, inProgress, completed, failed, cancelled}

// job is a prompt as the jobs API shows it. What is nil is left out.
type job struct {
	ID             string         `json:"id"`
	Status         string         `json:"status"`
	Priority       float64        `json:"priority"`
	Created        int64          `json:"create_time"`
	Started        int64          `json:"execution_start_time,omitempty"`
	Ended          int64          `json:"execution_end_time,omitempty"`
	Error          map[string]any `json:"execution_error,omitempty"`
	Outputs        int            `json:"outputs_count"`
	Previewable    int            `json:"previewable_outputs_count"`
	Preview        map[string]any `json:"preview_output,omitempty"`
	Workflow       string         `json:"workflow_id,omitempty"`
	AllOutputs     map[string]any `json:"outputs,omitzero"`
	Execution      map[string]any `json:"execution_status,omitempty"`
	WorkflowDetail map[string]any `json:"workflow,omitempty"`
}

// serveJobs answers the jobs API; path is what follows /api/jobs.
func (s *Server) serveJobs(w http.ResponseWriter, r *http.Request, path string) bool {
	id := strings.TrimPrefix(path, "/")
	switch {
	case path == "" && r.Method == http.MethodGet:
		s.listJobs(w, r.URL.Query())
	case path == "/cancel" && r.Method == http.MethodPost:
		s.cancelJobs(w, r)
	case strings.HasSuffix(path, "/cancel") && r.Method == http.MethodPost:
		answer(w, http.StatusOK, map[string]any{"cancelled": s.cancel(strings.TrimSuffix(id, "/cancel"))})
	case id != "" && !strings.Contains(id, "/") && r.Method == http.MethodGet:
		s.showJob(w, id)
	default:
		return false
	}
	return true
}

func badJobs(w http.ResponseWriter, text string) {
	answer(w, http.StatusBadRequest, map[string]any{"error": text})
}

func (s *Server) listJobs(w http.ResponseWriter, query url.Values) {
	states := jobStates
	if given := query.Get("status"); given != "" {
		states = strings.Split(strings.ToLower(given), ",")
		for _, state := range states {
			if !slices.Contains(jobStates, state) {
				badJobs(w, fmt.Sprintf("Invalid status value(s): %s. Valid values: %s", state, strings.Join(jobStates, ", ")))
				return
			}
		}
	}
	by, order := cmp.Or(query.Get("sort_by"), "created_at"), cmp.Or(query.Get("sort_order"), "desc")
	switch {
	case by != "created_at" && by != "execution_duration":
		badJobs(w, "sort_by must be 'created_at' or 'execution_duration'")
		return
	case order != "asc" && order != "desc":
		badJobs(w, "sort_order must be 'asc' or 'desc'")
		return
	}
	limit, offset, err := page(query)
	if err != nil {
		badJobs(w, err.Error())
		return
	}
	all := s.jobs()
	all = slices.DeleteFunc(all, func(j *job) bool {
		return !slices.Contains(states, j.Status) || query.Get("workflow_id") != "" && j.Workflow != query.Get("workflow_id")
	})
	slices.SortStableFunc(all, func(a, b *job) int {
		c := cmp.Compare(a.Created, b.Created)
		if by == "execution_duration" {
			c = cmp.Compare(a.Ended-a.Started, b.Ended-b.Started)
		}
		if order == "desc" {
			return -c
		}
		return c
	})
	total := len(all)
	shown := all[min(offset, total):]
	var given any
	if limit > 0 {
		given, shown = limit, shown[:min(limit, len(shown))]
	}
	answer(w, http.StatusOK, map[string]any{"jobs": shown, "pagination": map[string]any{"offset": offset, "limit": given, "total": total, "has_more": offset+len(shown) < total}})
}

// page reads a limit, which is 0 if none is given, and an offset.
func page(query url.Values) (limit, offset int, err error) {
	if query.Has("limit") {
		if limit, err = strconv.Atoi(query.Get("limit")); err != nil {
			return 0, 0, errors.New("limit must be an integer")
		}
		if limit <= 0 {
			return 0, 0, errors.New("limit must be a positive integer")
		}
	}
	if query.Has("offset") {
		if offset, err = strconv.Atoi(query.Get("offset")); err != nil {
			return 0, 0, errors.New("offset must be an integer")
		}
	}
	return limit, max(offset, 0), nil
}

// jobs are all prompts: what runs, what waits, and the history.
func (s *Server) jobs() (all []*job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running != nil {
		all = append(all, s.running.job(inProgress))
	}
	for _, i := range s.pending {
		all = append(all, i.job(pending))
	}
	for _, id := range s.order {
		all = append(all, s.history[id].job())
	}
	return all
}

func (s *Server) showJob(w http.ResponseWriter, id string) {
	s.mu.Lock()
	var found *job
	var of *item
	if e := s.history[id]; e != nil {
		found, of = e.job(), e.item
		found.AllOutputs, found.Execution = e.outputs, e.json()["status"].(map[string]any)
	} else if i := s.find(id); i != nil {
		state := pending
		if i == s.running {
			state = inProgress
		}
		found, of = i.job(state), i
	}
	s.mu.Unlock()
	if found == nil {
		answer(w, http.StatusNotFound, map[string]any{"error": "Job not found"})
		return
	}
	found.WorkflowDetail = map[string]any{"prompt": of.prompt, "extra_data": of.extra}
	answer(w, http.StatusOK, found)
}

// find returns the prompt that runs or waits under an id; the caller holds the lock.
func (s *Server) find(id string) *item {
	if s.running != nil && s.running.id == id {
		return s.running
	}
	if n := slices.IndexFunc(s.pending, func(i *item) bool { return i.id == id }); n >= 0 {
		return s.pending[n]
	}
	return nil
}

func (s *Server) cancelJobs(w http.ResponseWriter, r *http.Request) {
	var body struct {
		IDs []any `json:"job_ids"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		badJobs(w, "Request body must be valid JSON")
		return
	}
	if body.IDs == nil {
		badJobs(w, "job_ids must be a list")
		return
	}
	invalid := []string{}
	for _, v := range body.IDs {
		if id, ok := v.(string); !ok || !validID(id) {
			invalid = append(invalid, fmt.Sprint(v))
		}
	}
	if len(invalid) > 0 {
		answer(w, http.StatusBadRequest, map[string]any{"error": "job_ids contains invalid id(s)", "invalid_ids": invalid})
		return
	}
	some := false
	for _, id := range body.IDs {
		some = s.cancel(id.(string)) || some
	}
	answer(w, http.StatusOK, map[string]any{"cancelled": some})
}

// cancel interrupts the prompt if it runs, or removes it from the queue; it returns false if
// there is nothing to cancel.
func (s *Server) cancel(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running != nil && s.running.id == id {
		s.interrupt = true
		return true
	}
	return s.removePending(id)
}

// job is a prompt of the queue as a job.
func (i *item) job(state string) *job {
	j := &job{ID: i.id, Status: state, Priority: i.number}
	j.Created, _ = i.extra["create_time"].(int64)
	info, _ := i.extra["extra_pnginfo"].(map[string]any)
	workflow, _ := info["workflow"].(map[string]any)
	j.Workflow, _ = workflow["id"].(string)
	return j
}

// job is a prompt of the history as a job.
func (e *entry) job() *job {
	j := e.item.job(completed)
	if e.status == "error" {
		j.Status = failed
	}
	for _, m := range e.messages {
		kind, data := m.([]any)[0].(string), m.([]any)[1].(map[string]any)
		at, _ := data["timestamp"].(int64)
		switch kind {
		case "execution_start":
			j.Started = at
		case "execution_success":
			j.Ended = at
		case "execution_error":
			j.Ended, j.Error = at, data
		case "execution_interrupted":
			j.Ended, j.Status = at, cancelled
		}
	}
	nodes := make([]string, 0, len(e.outputs))
	for id := range e.outputs {
		nodes = append(nodes, id)
	}
	slices.Sort(nodes)
	var text map[string]any
	for _, id := range nodes {
		out := e.outputs[id].(map[string]any)
		images, _ := out["images"].([]any)
		j.Outputs += len(images)
		if len(images) > 0 && j.Preview == nil {
			j.Preview = map[string]any{"nodeId": id, "mediaType": "images"}
			for k, v := range images[0].(map[string]any) {
				j.Preview[k] = v
			}
		}
		if lines, _ := out["text"].([]string); len(lines) > 0 && text == nil {
			text = map[string]any{"content": lines[0], "nodeId": id, "mediaType": "text"}
		}
	}
	if j.Previewable = j.Outputs; j.Preview == nil {
		j.Preview = text
	}
	return j
}
