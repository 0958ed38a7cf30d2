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
	// Limits are for how long clients of each of the law's classes wait.
	Plan *Plan

	ledger   *ledger
	endpoint []*endpoint // of the servers
	front    []*endpoint // that clients reach: the response's, or the servers'
	response Response
	stop     context.CancelFunc
	running  sync.WaitGroup
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

// upstreamURL is a server's address in memory.
const upstreamURL = "http://comfyui.test:8188"

// start starts a node.
func start(ctx context.Context, p *Plan, l *law.Law, records *ledger, respond Starter) (*Node, error) {
	ctx, stop := context.WithCancel(ctx)
	n := &Node{Screen: &sharedgpu.Latest{}, Plan: p, ledger: records, stop: stop}
	n.GPU = sharedgpu.New(p.Setup.Memory, screens{n.Screen, records})
	for i := range p.Setup.Servers {
		work, err := sharedgpu.NewServer(n.GPU, firstPID+i, l, rand.New(rand.NewPCG(p.Seed, 200+uint64(i))), records)
		if err != nil {
			n.close()
			return nil, err
		}
		server := fakecomfyui.NewServer(work)
		n.running.Go(func() { server.Run(ctx) })
		e := serve(server)
		n.endpoint = append(n.endpoint, e)
		n.Upstreams = append(n.Upstreams, &Upstream{Index: i, URL: upstreamURL, Transport: e.transport, Work: work})
	}
	if p.Tenant {
		n.running.Go(func() { n.GPU.Tenant(ctx, tenantPID, rand.New(rand.NewPCG(p.Seed, 300))) })
	}
	records.contexts(n)
	n.front = n.endpoint
	if respond != nil {
		n.response = respond(n)
		n.front = nil
		for _, u := range n.Upstreams {
			n.front = append(n.front, serve(n.response.Handler(u)))
		}
	}
	return n, nil
}

// close ends everything; all clients have left.
func (n *Node) close() {
	if n.response != nil {
		for _, e := range n.front {
			e.close()
		}
		n.response.Close()
	}
	n.stop()
	for _, e := range n.endpoint {
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
