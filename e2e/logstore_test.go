// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
)

// logStore is a VictoriaLogs.
type logStore struct{ url string }

func victoriaLogs(t testing.TB) logStore {
	t.Helper()
	address := "127.0.0.1:" + strconv.Itoa(port(t))
	p := start(t, "victoria-logs", tool(t, "victoria-logs"), nil, "-httpListenAddr="+address, "-storageDataPath="+t.TempDir(), "-loggerLevel=WARN")
	require.NoError(t, p.WaitHTTP(withPatience(t), "http://"+address+"/health"))
	return logStore{"http://" + address}
}

// logsPath is where a VictoriaLogs accepts OTLP.
const logsPath = "/insert/opentelemetry/v1/logs"

// records are the log records that a query of LogsQL finds, each as its fields.
func (s logStore) records(t testing.TB, query string) (found []map[string]string) {
	t.Helper()
	text, err := get(s.url + "/select/logsql/query?query=" + url.QueryEscape(query))
	require.NoError(t, err)
	for line := range strings.Lines(text) {
		var r map[string]string
		require.NoError(t, json.Unmarshal([]byte(line), &r))
		found = append(found, r)
	}
	return found
}

// logSender sends log records over OTLP/HTTP and remembers what was accepted.
type logSender struct {
	url      string
	service  string // of its records; no other sender's
	client   *http.Client
	accepted map[string]bool
	refused  int
	last     int
}

const recordsPerBatch = 10

func (s *logSender) send(ctx context.Context, tries int) bool {
	logs := plog.NewLogs()
	rl := logs.ResourceLogs().AppendEmpty()
	rl.Resource().Attributes().PutStr("service.name", s.service)
	records := rl.ScopeLogs().AppendEmpty().LogRecords()
	ids := make([]string, 0, recordsPerBatch)
	for range recordsPerBatch {
		s.last++
		ids = append(ids, strconv.Itoa(s.last))
		r := records.AppendEmpty()
		r.SetTimestamp(pcommon.NewTimestampFromTime(time.Now()))
		r.Body().SetStr("work " + strings.Repeat("x", 200))
		r.Attributes().PutStr("sender.id", strconv.Itoa(s.last))
	}
	raw, err := plogotlp.NewExportRequestFromLogs(logs).MarshalProto()
	if err != nil {
		panic(err)
	}
	if !deliver(ctx, s.client, s.url, raw, tries, &s.refused) {
		return false
	}
	for _, id := range ids {
		s.accepted[id] = true
	}
	return true
}

func (s *logSender) missing(t testing.TB, store logStore) int {
	t.Helper()
	held := map[string]bool{}
	for _, r := range store.records(t, fmt.Sprintf(`service.name:=%q | fields sender.id`, s.service)) {
		held[r["sender.id"]] = true
	}
	lost := 0
	for id := range s.accepted {
		if !held[id] {
			lost++
		}
	}
	return lost
}

// deliver posts an OTLP request until it is accepted or tries run out (0: for ever), and counts
// refusals.
func deliver(ctx context.Context, client *http.Client, url string, raw []byte, tries int, refused *int) bool {
	for try := 1; ; try++ {
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(raw))
		if err != nil {
			panic(err)
		}
		request.Header.Set("Content-Type", "application/x-protobuf")
		if response, err := client.Do(request); err == nil {
			_, _ = io.Copy(io.Discard, response.Body)
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return true
			}
		}
		*refused++
		if try == tries || ctx.Err() != nil {
			return false
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(20 * time.Millisecond):
		}
	}
}
