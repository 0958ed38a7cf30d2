// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unicode/utf16"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/comfyreplay"
)

// bounds are those of the default configuration.
var bounds = Bounds{Label: 256, Message: 4096, Stacktrace: 16384, Nodes: 4096}

func submission(t *testing.T, body string) Submission {
	t.Helper()
	s, err := bounds.ParseSubmission(strings.NewReader(body))
	require.NoError(t, err)
	return s
}

func message(t *testing.T, text string) Message {
	t.Helper()
	m, ok := bounds.ParseMessage([]byte(text))
	require.True(t, ok, text)
	return m
}

func TestMessagesOfOlderAndOddServersAreRead(t *testing.T) {
	assert.Equal(t, "7", message(t, `{"type": "executing", "data": {"node": 7, "prompt_id": "p"}}`).Node, "node ids were numbers once")
	assert.True(t, message(t, `{"type": "executing", "data": {"node": null, "prompt_id": "p"}}`).NoNode)
	m := message(t, `{"data": {"prompt_id": "p", "node_id": "2", "timestamp": 1795489984750, "exception_type": "torch.OutOfMemoryError"}, "type": "execution_error"}`)
	assert.Equal(t, "torch.OutOfMemoryError", m.Error.Type)
	assert.Equal(t, "2", m.Node)
	assert.Equal(t, time.UnixMilli(1795489984750), m.At)
	m = message(t, `{"type": "progress_state", "data": {"prompt_id": "p", "nodes": {"1": {"state": 7}, "2": {"state": "running", "value": 1}}}}`)
	assert.Equal(t, "running", m.States["2"].State, "one damaged node does not hide the others")
	for _, text := range []string{``, `null`, `[]`, `{"type": 1}`, `{"type": "status"`, `"status"`, `{"type": "status"} x`} {
		_, ok := bounds.ParseMessage([]byte(text))
		assert.False(t, ok, text)
	}
}

func TestMessagesOfUnknownKindsAreNamed(t *testing.T) {
	m := message(t, `{"type": "something_new", "data": {"node": "1"}}`)
	assert.Equal(t, Kind("something_new"), m.Kind)
	assert.False(t, m.Kind.Known())
}

func TestNumbersThatOnlyPythonWritesAreTolerated(t *testing.T) {
	m := message(t, `{"type": "progress_state", "data": {"prompt_id": "p", "nodes": {"1": {"value": NaN, "max": Infinity, "state": "finished"}, "2": {"value": -Infinity, "state": "running", "display_node_id": "NaN"}}}}`)
	assert.Equal(t, NodeState{State: "finished"}, m.States["1"])
	assert.Equal(t, "NaN", m.States["2"].Display, "texts are left alone")
	s := submission(t, `{"prompt": {"1": {"class_type": "A", "inputs": {"x": NaN, "y": 3}}}, "client_id": "c"}`)
	assert.Equal(t, "c", s.ClientID)
	assert.Equal(t, "3", s.Nodes[0].Inputs["y"].Value)
	h, err := bounds.ParseHistory(strings.NewReader(`{"p": {"prompt": [0, "p", {"1": {"class_type": "A", "inputs": {"x": NaN}}}], "status": {"status_str": "success", "messages": [["execution_success", {"timestamp": 1795489984750}]]}}}`), All{})
	require.NoError(t, err)
	_, ended := h.Finished["p"].End()
	assert.True(t, ended)
}

func TestValuesOfAnotherTypeSpoilNothingElse(t *testing.T) {
	s := submission(t, `{"client_id": 5, "prompt_id": ["x"], "extra_data": {"task_class": 7, "traceparent": {}, "extra_pnginfo": []}, "prompt": {"1": {"class_type": "A", "_meta": 3, "inputs": {"x": 1}}}}`)
	assert.Empty(t, s.ClientID)
	assert.Empty(t, s.PromptID)
	require.Len(t, s.Nodes, 1)
	assert.Equal(t, "A", s.Nodes[0].Class)
}

func TestKeysAreMatchedAsPythonDoes(t *testing.T) {
	s := submission(t, `{"CLIENT_ID": "wrong", "client_id": "first", "Client_Id": "wrong", "client_id": "last"}`)
	assert.Equal(t, "last", s.ClientID)
}

func TestTextsOfAClientAreBounded(t *testing.T) {
	long := strings.Repeat("x", 100_000)
	s := submission(t, fmt.Sprintf(`{"prompt": {%[1]q: {"class_type": %[1]q, "_meta": {"title": %[1]q}, "inputs": {"text": %[1]q, "model": %[1]q}}},
		"extra_data": {"task_class": "a\nb", "extra_pnginfo": {"workflow": {"id": %[1]q}}}}`, long))
	n := s.Nodes[0]
	for _, text := range []string{n.ID, n.Class, n.Title, n.Inputs["model"].Value, s.Workflow} {
		assert.Len(t, text, 256)
	}
	assert.Len(t, n.Inputs["text"].Value, MaxPromptText)
	assert.Equal(t, "a\uFFFDb", s.TaskClass, "no line of a log can be forged")
	other := submission(t, fmt.Sprintf(`{"prompt": {"1": {"_meta": {"title": %q}}}}`, long+"y"))
	assert.NotEqual(t, n.Title, other.Nodes[0].Title, "two long texts remain two")
	m := message(t, fmt.Sprintf(`{"type": "execution_error", "data": {"prompt_id": "p", "exception_type": %[1]q, "exception_message": %[1]q, "traceback": [%[1]q, "the end"]}}`, long))
	assert.Len(t, m.Error.Type, 256)
	assert.Len(t, m.Error.Message, 4096)
	assert.LessOrEqual(t, len(m.Error.Traceback[0]), 16384)
	assert.True(t, strings.HasSuffix(m.Error.Traceback[0], "the end"))
}

func TestLongIDsAreFound(t *testing.T) {
	s := submission(t, fmt.Sprintf(`{"client_id": %q}`, strings.Repeat("x", MaxID)))
	assert.False(t, s.HasLongID())
	assert.Len(t, s.ClientID, MaxID)
	s = submission(t, fmt.Sprintf(`{"client_id": %q}`, strings.Repeat("x", MaxID+1)))
	assert.True(t, s.HasLongID())
}

func TestWorkflowOf10000NodesIsReadWithinTheBound(t *testing.T) {
	nodes := map[string]any{}
	for i := range 10_000 {
		nodes[fmt.Sprint(i)] = map[string]any{"class_type": "Node", "inputs": map[string]any{"from": []any{fmt.Sprint(i - 1), 0}, "x": i}}
	}
	body, err := json.Marshal(map[string]any{"prompt": nodes})
	require.NoError(t, err)
	s := submission(t, string(body))
	require.Len(t, s.Nodes, bounds.Nodes)
	assert.Equal(t, "9", submission(t, `{"prompt": {"10": {}, "9": {}}}`).Nodes[0].ID, "in the order of their numbers")
	again := submission(t, strings.ReplaceAll(string(body), `"x":5,`, `"x":6,`))
	assert.Equal(t, s.Workflow, again.Workflow, "values do not change a workflow's shape")
}

// A prompt of 8 MB that is read keeps only what spans need, and reading it does not take
// a multiple of its size.
func TestLargePromptsTakeLittleMemory(t *testing.T) {
	image := strings.Repeat("A", 8<<20)
	for name, body := range map[string]string{
		"one image":    `{"prompt": {"1": {"class_type": "LoadImageBase64", "inputs": {"image": "` + image + `"}}}}`,
		"many inputs":  `{"prompt": {"1": {"class_type": "A", "inputs": {` + strings.Repeat(`"a": 1, `, 1<<19) + `"b": 1}}}}`,
		"many nodes":   `{"prompt": {` + strings.Repeat(`"1": {}, `, 1<<19) + `"2": {}}}`,
		"nested lists": `{"prompt": {"1": {"inputs": {"a": [` + strings.Repeat(`[1], `, 1<<20) + `0]}}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			s := submission(t, body)
			runtime.GC()
			runtime.ReadMemStats(&after)
			assert.Less(t, int64(after.HeapAlloc)-int64(before.HeapAlloc), int64(2<<20), "held")
			assert.Less(t, s.Size(), 2<<20)
			runtime.KeepAlive(body)
		})
	}
}

// What a server does to the numbers of a prompt must not change its content.
func TestContentSurvivesTheServer(t *testing.T) {
	sent := submission(t, `{"prompt": {"1": {"class_type": "A", "_meta": {"title": "x"}, "inputs": {"a": "480", "b": 1e3, "c": 7, "seed": 18446744073709551615, "l": ["2", 0], "o": {"k": [1, null, true]}}}, "2": {"class_type": "B", "inputs": {"t": "text", "n": NaN}}}}`)
	stored := `[3, "p", {"2": {"inputs": {"n": NaN, "t": "text"}, "class_type": "B"}, "1": {"inputs": {"a": 480, "b": 1000.0, "c": 7.0, "seed": 18446744073709551615, "l": ["2", 0], "o": {"k": [1, null, true]}}, "class_type": "A"}}, {"client_id": "c", "create_time": 1795580833463}, ["1"], {}]`
	q, err := bounds.ParseQueue(strings.NewReader(`{"queue_running": [`+stored+`], "queue_pending": []}`), All{})
	require.NoError(t, err)
	require.Len(t, q.Prompts, 1)
	assert.Equal(t, sent.Content, q.Prompts[0].Content)
	replaced := submission(t, `{"prompt": {"2": {"class_type": "C", "inputs": {}}, "1": {"class_type": "D", "inputs": {"z": 1}}}}`)
	assert.Equal(t, sent.NodeIDs, replaced.NodeIDs, "the server may replace nodes")
	assert.Equal(t, "c", q.Prompts[0].ClientID)
	assert.Equal(t, "p", q.Prompts[0].PromptID)
	assert.Equal(t, time.UnixMilli(1795580833463), q.Prompts[0].Created)
	// the web page writes UTF-8, Python escapes
	for _, text := range []string{strings.Repeat("я", 1000), strings.Repeat("я", 1600), strings.Repeat("😀a", 3000), strings.Repeat("x", maxText-1) + "я", "a/b\t\"", "\u2028"} {
		plain, err := json.Marshal(text)
		require.NoError(t, err)
		quoted := strconv.QuoteToASCII(text)
		escaped := quoted[1 : len(quoted)-1]
		escaped = regexp.MustCompile(`\\U([0-9a-f]{8})`).ReplaceAllStringFunc(escaped, func(s string) string {
			r, _ := strconv.ParseUint(s[2:], 16, 32)
			first, second := utf16.EncodeRune(rune(r))
			return fmt.Sprintf(`\u%04x\u%04x`, first, second)
		})
		page := submission(t, `{"prompt": {"1": {"class_type": "A", "inputs": {"t": `+string(plain)+`}}}}`)
		python := submission(t, `{"prompt": {"1": {"class_type": "A", "inputs": {"t": "`+strings.ReplaceAll(escaped, "/", `\/`)+`"}}}}`)
		assert.Equal(t, page.Content, python.Content, "%.20s", text)
		assert.Equal(t, page.Nodes, python.Nodes, "%.20s", text)
	}
	for _, other := range []string{
		`{"prompt": {"1": {"class_type": "A", "inputs": {"a": 481}}}}`, `{"prompt": {"1": {"class_type": "B", "inputs": {"a": 480}}}}`,
		`{"prompt": {"2": {"class_type": "A", "inputs": {"a": 480}}}}`, `{"prompt": {"1": {"class_type": "A", "inputs": {"b": 480}}}}`,
	} {
		assert.NotEqual(t, submission(t, `{"prompt": {"1": {"class_type": "A", "inputs": {"a": 480}}}}`).Content, submission(t, other).Content, other)
	}
}

// S4: a text that has no beginning of a character is cut, too.
func TestATextOfContinuationBytesIsCut(t *testing.T) {
	s := submission(t, `{"client_id": "`+strings.Repeat("\x80", 1<<20)+`"}`)
	assert.Less(t, len(s.ClientID), 4*maxText)
}

type knownIDs map[string]bool

func (k knownIDs) Has(id string) bool { return k[id] }

func TestKnownPromptsOfTheQueueAndTheHistoryAreNotReadAgain(t *testing.T) {
	q, err := bounds.ParseQueue(strings.NewReader(`{"queue_running": [[0, "a", {"1": {}}, {}, []], 7, [1]], "queue_pending": [[1, "b", {"1": {}}, {}, []], [2, "", {}], null]}`), knownIDs{"a": true})
	require.NoError(t, err)
	assert.Equal(t, map[string]Place{"a": Running, "b": Pending}, q.IDs)
	require.Len(t, q.Prompts, 1)
	assert.Equal(t, "b", q.Prompts[0].PromptID)
	h, err := bounds.ParseHistory(strings.NewReader(`{"a": {"prompt": []}, "b": {"status": {"status_str": "success"}}}`), knownIDs{"a": true})
	require.NoError(t, err)
	assert.Equal(t, 2, h.Entries)
	require.Len(t, h.Finished, 1)
	assert.Equal(t, "success", h.Finished["b"].Status)
	_, err = bounds.ParseQueue(strings.NewReader(`{}`), All{})
	assert.Error(t, err)
}

func TestBlockedNodesDoNotEndAPrompt(t *testing.T) {
	h, err := bounds.ParseHistory(strings.NewReader(`{"p": {"status": {"messages": [["execution_error", {"node_id": "2", "exception_type": "ExecutionBlocked"}], ["execution_success", {"timestamp": 1795489984750}]]}}}`), All{})
	require.NoError(t, err)
	m, ok := h.Finished["p"].End()
	require.True(t, ok)
	assert.Equal(t, ExecutionSuccess, m.Kind)
}

func TestTheLengthOfTheQueueIsRead(t *testing.T) {
	n, err := ParseLength(strings.NewReader(`{"exec_info": {"queue_remaining": 3}}`))
	require.NoError(t, err)
	assert.Equal(t, 3, n)
	for _, body := range []string{`{}`, `[]`, ``, `{"exec_info": {"queue_remaining": -1}}`, `{"exec_info": {"queue_remaining": "3"}}`} {
		_, err := ParseLength(strings.NewReader(body))
		assert.Error(t, err, body)
	}
	ids, err := ParseJobs(strings.NewReader(`{"jobs": [{"id": "a", "status": "pending"}, {"status": "in_progress", "id": "b"}, 3], "pagination": {}}`))
	require.NoError(t, err)
	assert.Equal(t, Pending, ids["a"])
	assert.Equal(t, Running, ids["b"])
	_, err = ParseJobs(strings.NewReader(`{"error": "x"}`))
	assert.Error(t, err)
}

func TestHistoryOfEveryRecordingIsRead(t *testing.T) {
	entries := 0
	for _, r := range comfyreplay.All(t) {
		for _, l := range r.Lines {
			if l.Kind != "response" || l.Status != 200 {
				continue
			}
			h, err := bounds.ParseHistory(bytes.NewReader(l.Body), All{})
			if err != nil {
				continue
			}
			for id, f := range h.Finished {
				if len(f.Messages) == 0 {
					continue
				}
				entries++
				assert.Equal(t, id, f.PromptID)
				_, ended := f.End()
				assert.True(t, ended, "%s: %s", r.Name, id)
				assert.False(t, f.Start().IsZero())
				assert.NotEmpty(t, f.Nodes)
			}
		}
	}
	assert.Greater(t, entries, 20)
}

// The filter gives the same in pieces of any size.
func TestTheLenientReaderDoesNotDependOnThePieces(t *testing.T) {
	text := `{"a": [NaN, -Infinity, "\"NaN\\", "` + strings.Repeat(`\u00e9é`, maxText) + `", Infinity], "b": null}`
	whole, err := io.ReadAll(&lenientReader{from: strings.NewReader(text)})
	require.NoError(t, err)
	bytewise, err := io.ReadAll(&lenientReader{from: iotest.OneByteReader(strings.NewReader(text))})
	require.NoError(t, err)
	assert.Equal(t, string(whole), string(bytewise))
	var v struct {
		A []any `json:"a"`
	}
	require.NoError(t, json.Unmarshal(whole, &v))
	assert.Zero(t, v.A[0])
	assert.Equal(t, `"NaN\`, v.A[2])
	assert.Contains(t, v.A[3], "…")
	assert.NotContains(t, v.A[3], "\uFFFD")
}

func FuzzMessage(f *testing.F) {
	f.Add([]byte(`{"type": "progress_state", "data": {"prompt_id": "p", "nodes": {"1": {"state": "running"}}}}`))
	f.Add([]byte(`{"type": "execution_cached", "data": {"nodes": [1, "2", null], "timestamp": 1e300}}`))
	f.Add([]byte(`{"type": "executed", "data": {"output": {"images": {}}}}`))
	f.Add([]byte(`{"type": "progress", "data": {"value": NaN, "max": -Infinity}}`))
	f.Fuzz(func(_ *testing.T, text []byte) { _, _ = bounds.ParseMessage(text) })
}

func FuzzSubmission(f *testing.F) {
	f.Add([]byte(`{"prompt": {"1": {"class_type": "A", "inputs": {"x": ["2", 0]}}}, "client_id": "c", "extra_data": {"traceparent": "x"}}`))
	f.Add([]byte(`{"prompt": [], "extra_data": 7}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		s, err := bounds.ParseSubmission(bytes.NewReader(body))
		if err == nil {
			again, err := bounds.ParseSubmission(iotest.OneByteReader(bytes.NewReader(body)))
			require.NoError(t, err)
			require.Equal(t, s, again)
		}
	})
}

func FuzzAnswers(f *testing.F) {
	f.Add([]byte(`{"prompt_id": "p", "node_errors": {"2": {}}, "error": "text"}`))
	f.Add([]byte(`{"queue_running": [[0, "p", {}, {}, []]], "queue_pending": [7]}`))
	f.Add([]byte(`{"p": {"prompt": [0, "p", {}], "status": {"messages": [["execution_start", {"timestamp": 1}], [], [1]]}, "outputs": {"3": {"images": [{}]}}}}`))
	f.Add([]byte(`{"jobs": [{"id": "a"}], "exec_info": {"queue_remaining": 1}}`))
	f.Add([]byte(systemStats("0.33.0", "2.8.0", `"main.py"`, `"0.4.13"`, "cuda:0 NVIDIA H100")))
	f.Add([]byte(logAnswer("2026-11-25T04:27:15.5", tiled, "0001-01-01T00:00:00", attention)))
	f.Fuzz(func(_ *testing.T, body []byte) {
		_ = bounds.ParseAnswer(body)
		log, _ := ParseLog(bytes.NewReader(body))
		_ = log.RetriesAt(time.Unix(1_700_000_000, 0))
		_, _ = bounds.ParseQueue(bytes.NewReader(body), All{})
		_, _ = bounds.ParseHistory(bytes.NewReader(body), All{})
		stats, _ := bounds.ParseSystemStats(bytes.NewReader(body))
		_ = stats.Dynamic()
		_ = ParseRemoval(bytes.NewReader(body))
		_, _ = ParseLength(bytes.NewReader(body))
		_, _ = ParseJobs(bytes.NewReader(body))
		_, _ = ParseAPINode(bytes.NewReader(body))
	})
}
