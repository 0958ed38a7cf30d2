// SPDX-License-Identifier: Apache-2.0

package overload

import (
	"context"
	"math/rand/v2"
	"net/http"
	"sync"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakecomfyui"
	"github.com/otelcol-gpu/otelcol-gpu/lab/law"
	"github.com/otelcol-gpu/otelcol-gpu/lab/sharedgpu"
)

// Response stands between the clients and the servers of a node: the product's proxy, or a test's.
type Response interface {
	// Handler serves what clients send to a server.
	Handler(u *Upstream) http.Handler
	// Close ends it, once all clients have left and before the servers stop.
	Close()
}

// Starter starts a response; nil is none. It is called inside the bubble: what it starts runs in
// virtual time.
type Starter func(n *Node) Response

// Node is a machine with a GPU and the ComfyUI servers on it.
type Node struct {
	// GPU is the one that the servers share, Screen shows its readings.
	GPU       *sharedgpu.GPU
	Screen    *sharedgpu.Latest
	Upstreams []*Upstream
	Plan      *Plan

	ledger    *ledger
	endpoints []*endpoint // of the servers
	fronts    []*endpoint // that clients reach: the response's, or the servers'
	response  Response
	stop      context.CancelFunc
	running   sync.WaitGroup
}

// Upstream is a ComfyUI server as a response reaches it.
type Upstream struct {
	Index int
	// URL is the server's; only Transport reaches it.
	URL       string
	Transport *http.Transport
	// Work is what the server does on the GPU.
	Work *sharedgpu.Server
}

// firstPID is the first server's process.
const firstPID = 1000

// tenantPID is the foreign process.
const tenantPID = 999

// place is where a node runs.
type place struct {
	serve serving
	// pid is the process of a server.
	pid func(server int) int
	// screen shows the GPU, beside the node's own; it may be nil.
	screen sharedgpu.Screen
}

// virtual is inside testing/synctest.
var virtual = place{serve: inMemory, pid: func(server int) int { return firstPID + server }}

// start starts a node without a response.
func start(ctx context.Context, p *Plan, l *law.Law, where place) (*Node, error) {
	ctx, stop := context.WithCancel(ctx)
	n := &Node{Screen: &sharedgpu.Latest{}, Plan: p, ledger: newLedger(), stop: stop}
	shown := screens{n.Screen, n.ledger}
	if where.screen != nil {
		shown = append(shown, where.screen)
	}
	n.GPU = sharedgpu.New(p.Setup.Memory, sharedgpu.Unlisted(rand.New(rand.NewPCG(p.Seed, 400))), shown)
	for i := range p.Setup.Servers {
		work, err := sharedgpu.NewServer(n.GPU, where.pid(i), l, rand.New(rand.NewPCG(p.Seed, 200+uint64(i))), n.ledger)
		if err != nil {
			n.close()
			return nil, err
		}
		server := fakecomfyui.NewServer(work)
		n.running.Go(func() { server.Run(ctx) })
		e, err := where.serve(server)
		if err != nil {
			n.close()
			return nil, err
		}
		n.endpoints = append(n.endpoints, e)
		n.Upstreams = append(n.Upstreams, &Upstream{Index: i, URL: e.url, Transport: e.transport, Work: work})
	}
	if p.Tenant {
		n.running.Go(func() { n.GPU.Tenant(ctx, tenantPID, rand.New(rand.NewPCG(p.Seed, 300))) })
	}
	n.ledger.contexts(n)
	n.fronts = n.endpoints
	return n, nil
}

// respond puts a response between the clients and the servers.
func (n *Node) respond(starter Starter, where place) error {
	if starter == nil {
		return nil
	}
	n.response = starter(n)
	n.fronts = nil
	for _, u := range n.Upstreams {
		e, err := where.serve(n.response.Handler(u))
		if err != nil {
			return err
		}
		n.fronts = append(n.fronts, e)
	}
	return nil
}

// close ends everything; all clients have left.
func (n *Node) close() {
	for _, e := range n.fronts {
		e.close()
	}
	if n.response != nil {
		n.response.Close()
	}
	n.stop()
	for _, e := range n.endpoints {
		e.close()
	}
	for _, u := range n.Upstreams {
		u.Work.Close()
	}
	n.running.Wait()
}

// screens show the same.
type screens []sharedgpu.Screen

// Show implements [sharedgpu.Screen].
func (s screens) Show(r sharedgpu.Readings) {
	for _, screen := range s {
		screen.Show(r)
	}
}
