// SPDX-License-Identifier: Apache-2.0

package sockets

import (
	"context"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// silentServer is a server's side that accepts all data and sends none.
type silentServer struct{ closed bool }

func (*silentServer) Read([]byte) (int, error)    { return 0, nil }
func (*silentServer) Write(b []byte) (int, error) { return len(b), nil }
func (s *silentServer) Close() error              { s.closed = true; return nil }

// silentClient is a client's connection.
type silentClient struct{ net.Conn }

func (silentClient) Close() error { return nil }

// env is a hub whose own sockets are opened by the test.
type env struct {
	*Hub
	now  time.Time
	open int // prompts of each client
}

func (e *env) OpenOf(string) int { return e.open }

func newEnv(maxRetained int) *env {
	e := &env{now: time.Unix(1_700_000_000, 0)}
	e.Hub = NewHub(Config{MaxSockets: 100, MaxRetained: maxRetained, MaxRequests: 100, Prompts: e, Now: func() time.Time { return e.now }})
	return e
}

// expect is Reserve without the attempt to connect.
func (e *env) expect(id string) (release func(), opened *socket) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.record(id)
	c.requests++
	if len(c.sockets) == 0 && e.withoutClient() < e.MaxRetained {
		opened = e.add(c, opening)
		opened.server, opened.proxyOwned = &silentServer{}, true
	}
	return func() { e.release(c) }, opened
}

// arrive is connect within the limits.
func (e *env) arrive(ctx context.Context, t *testing.T, id string) *socket {
	t.Helper()
	s, err := e.connect(ctx, id)
	require.NoError(t, err)
	return s
}

// client connects a client.
func (e *env) client(t *testing.T, id string) *socket {
	s := e.arrive(t.Context(), t, id)
	require.NotNil(t, s)
	s.server = &silentServer{}
	require.True(t, e.advance(s, connected, connecting))
	return s
}

func isClosed(s *socket) bool { return s.server.(*silentServer).closed }

func TestAnOwnSocketIsOpenedOncePerClientAndWithinTheLimit(t *testing.T) {
	e := newEnv(1)
	_, s := e.expect("a")
	require.NotNil(t, s)
	_, second := e.expect("a")
	assert.Nil(t, second, "one is opening")
	_, other := e.expect("b")
	assert.Nil(t, other, "the limit is reached")
	e.client(t, "c")
	_, known := e.expect("c")
	assert.Nil(t, known, "the client has a socket")
}

func TestAnOwnSocketStaysAsLongAsItIsNeeded(t *testing.T) {
	e := newEnv(1)
	release, s := e.expect("a")
	require.True(t, e.advance(s, retained, opening))
	e.now = e.now.Add(time.Hour)
	e.Sweep()
	assert.False(t, isClosed(s), "a request has no answer")
	e.open = 1
	release()
	e.Sweep()
	e.now = e.now.Add(time.Hour)
	e.Sweep()
	assert.False(t, isClosed(s), "a prompt is open")
	e.open = 0
	e.now = e.now.Add(linger - 1)
	e.Sweep()
	assert.False(t, isClosed(s), "the next prompt may come")
	client := e.client(t, "a")
	e.now = e.now.Add(time.Hour)
	e.Sweep()
	assert.False(t, isClosed(s), "the server would forget the client's id")
	client.close()
	e.Sweep()
	assert.True(t, isClosed(s))
	assert.Empty(t, e.clients)
	_, withoutClient := e.Counts()
	assert.Zero(t, withoutClient)
}

func TestASocketThatTheServerHasForgottenIsClosedWhilePromptsRun(t *testing.T) {
	e := newEnv(1)
	release, s := e.expect("a")
	require.True(t, e.advance(s, retained, opening))
	release()
	e.client(t, "a").close()
	e.open = 1
	e.Sweep()
	assert.True(t, isClosed(s))
}

func TestAClientWaitsWhileAnOwnSocketOfItsIDIsOpening(t *testing.T) {
	e := newEnv(1)
	release, s := e.expect("a")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	assert.Nil(t, e.arrive(ctx, t, "a"), "the client left before")
	s.release() // it could not be opened
	release()
	client := e.arrive(t.Context(), t, "a")
	require.NotNil(t, client)
	client.release()
	assert.Empty(t, e.clients)
	_, withoutClient := e.Counts()
	assert.Zero(t, withoutClient)
}

func TestSocketsOfLeftClientsAreRetainedWithinTheLimit(t *testing.T) {
	e := newEnv(1)
	e.open = 1
	first, second := e.client(t, "a"), e.client(t, "b")
	first.client, second.client = silentClient{}, silentClient{}
	first.clientLeft(nil)
	second.clientLeft(nil)
	assert.False(t, isClosed(first))
	assert.True(t, isClosed(second))
	withClient, withoutClient := e.Counts()
	assert.Equal(t, [2]int{0, 1}, [2]int{withClient, withoutClient})
}

// named is a hub's observer that reads ids as the receiver does.
type named struct{}

func (named) Text([]byte)                  {}
func (named) Unparsed()                    {}
func (named) Bytes(Direction, string, int) {}
func (named) ClientID(m []byte) (id string, ok bool) {
	return string(m), len(m) > 0
}

func TestTheSocketOfAClientWithoutAnIDIsKnownByTheServersID(t *testing.T) {
	e := newEnv(1)
	e.Observer = named{}
	s, other := e.client(t, ""), e.client(t, "")
	s.unnamed, other.unnamed = true, true
	s.Text([]byte("sid"))
	s.Text([]byte("another text"))
	assert.True(t, e.HasSocket("sid"))
	assert.Equal(t, "sid", s.id())
	release := e.Reserve("sid")
	release()
	assert.Len(t, e.clients["sid"].sockets, 1, "no own socket is opened")
	e.open = 1
	s.client = silentClient{}
	s.clientLeft(nil)
	assert.False(t, isClosed(s), "its prompt runs")
	other.close()
	assert.False(t, s.isForgotten(), "clients without an id have nothing in common")
	e.open = 0
	e.Sweep()
	assert.True(t, isClosed(s))
	assert.Empty(t, e.clients)
	assert.Empty(t, e.retained)
}

func TestAnOldSocketStaysWhileItsClientConnectsAgain(t *testing.T) {
	for _, next := range []state{connecting, connected} {
		e := newEnv(1)
		old := e.client(t, "a")
		fresh := e.arrive(t.Context(), t, "a")
		fresh.server = &silentServer{}
		if next == connected {
			require.True(t, e.advance(fresh, connected, connecting))
		}
		old.client = silentClient{}
		old.clientLeft(nil)
		e.Sweep()
		assert.False(t, isClosed(old), "the server would forget the client's id")
		require.True(t, e.advance(fresh, connected, connecting, connected))
		assert.False(t, fresh.isForgotten())
		fresh.close()
		e.Sweep()
		assert.True(t, isClosed(old))
	}
}

func TestTheOwnSocketOfARefusedRequestIsClosed(t *testing.T) {
	e := newEnv(5)
	release, s := e.expect("a")
	require.True(t, e.advance(s, retained, opening))
	s.proxyOwned = true
	e.Refused("a")
	assert.True(t, isClosed(s))
	release()
	client := e.client(t, "b")
	e.Refused("b")
	assert.False(t, isClosed(client), "it is the client's")
	e.Refused("unknown")
}

func TestAClosedHubAcceptsNobody(t *testing.T) {
	e := newEnv(1)
	s := e.client(t, "a")
	e.Close()
	assert.True(t, isClosed(s))
	assert.Nil(t, e.arrive(t.Context(), t, "b"))
	e.Reserve("c")()
	assert.Empty(t, e.clients)
}

func TestSocketsBeyondTheLimitAreNotHeld(t *testing.T) {
	e := newEnv(1)
	e.MaxSockets = 2
	a := e.client(t, "a")
	e.client(t, "")
	_, err := e.connect(t.Context(), "b")
	require.ErrorIs(t, err, ErrFull)
	assert.NotContains(t, e.clients, "b")
	a.close()
	e.client(t, "b")
}

func TestSizesOfAHubStayWithinItsBounds(t *testing.T) {
	e := newEnv(3)
	e.MaxSockets, e.open, e.Observer = 10, 1, named{}
	check := func() {
		for _, b := range e.Bounds() {
			require.LessOrEqual(t, b.Size, b.Max, b.Name)
		}
	}
	full := 0
	var all []*socket
	for i := range 300 {
		id := []string{"", "a", strconv.Itoa(i)}[i%3]
		if s, err := e.connect(t.Context(), id); err == nil {
			s.server, s.client = &silentServer{}, silentClient{}
			require.True(t, e.advance(s, connected, connecting))
			all = append(all, s)
		} else {
			full++
		}
		check()
		if i%4 == 3 {
			all[0].clientLeft(nil) // most of them are retained, as far as there is room
			all = all[1:]
			check()
		}
		if i%50 == 49 {
			e.open = 0
			e.now = e.now.Add(time.Hour)
			e.Sweep()
			e.open = 1
			check()
		}
	}
	assert.Positive(t, full)
}
