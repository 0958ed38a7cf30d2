// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakecomfyui"
	"github.com/otelcol-gpu/otelcol-gpu/lab/simulation"
	"github.com/otelcol-gpu/otelcol-gpu/lab/stack"
)

// prompts is the part of the job that has to do with ComfyUI.
type prompts struct {
	configs     []string // of the collector, later ones go over earlier ones
	environment []string // of the collector
	proxy       string
	traces      string
	users       *simulation.Users // of a simulated ComfyUI
	rushes      rushes
	end         func()
}

// userCount is how many people use the simulated ComfyUI.
const userCount = 3

// probeTimeout is how long a ComfyUI may take to answer while it works; where none listens, the
// probe ends at once.
const probeTimeout = 5 * time.Second

// findComfyUI probes the usual address for a ComfyUI of the user's own, unless
// COMFYUI names one.
func (s *settings) findComfyUI(ctx context.Context) {
	if s.comfyui != "" {
		return
	}
	at := fmt.Sprintf("http://127.0.0.1:%d", s.comfyPort)
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at+"/system_stats", nil)
	if err != nil {
		return
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return
	}
	defer response.Body.Close()
	var stats struct {
		System struct {
			Version string `json:"comfyui_version"`
		} `json:"system"`
	}
	if json.NewDecoder(io.LimitReader(response.Body, 1<<20)).Decode(&stats) == nil && stats.System.Version != "" {
		s.comfyui = at
		fmt.Printf("found ComfyUI %s at %s\n", stats.System.Version, at)
	}
}

// startPrompts starts what a ComfyUI needs: the simulated server and its users, if
// the GPUs are simulated, and with JAEGER=1 a store for traces. Without a ComfyUI there is
// nothing to start.
func (s *settings) startPrompts(ctx context.Context, m *machine) (p *prompts, err error) {
	p = &prompts{configs: []string{filepath.Join(s.root, "config", "default.yaml")}, end: func() {}}
	if m.service == nil && s.comfyui == "" {
		return p, nil
	}
	ports := []usedPort{{"PROXY_PORT", s.proxyPort, "the proxy"}}
	if s.jaeger {
		ports = append(ports, usedPort{"TRACES_PORT", s.tracesPort, "Jaeger's API"})
	}
	if m.service != nil {
		ports = append(ports, usedPort{"COMFYUI_PORT", s.comfyPort, "the simulated ComfyUI"})
	}
	if err := checkPorts(ports...); err != nil {
		return nil, err
	}
	var ends []func()
	p.end = func() {
		for i := len(ends) - 1; i >= 0; i-- {
			ends[i]()
		}
	}
	defer func() {
		if err != nil {
			p.end()
		}
	}()
	p.configs = []string{filepath.Join(s.root, "config", "comfyui.yaml")}
	p.proxy = fmt.Sprintf("127.0.0.1:%d", s.proxyPort)
	upstream := s.comfyui
	if m.service != nil {
		end, err := s.simulate(ctx, m, p)
		if err != nil {
			return nil, err
		}
		ends = append(ends, end)
		if err := p.rushes.listen(ctx); err != nil {
			return nil, err
		}
		ends = append(ends, func() { _ = p.rushes.server.Close() })
		p.configs = append(p.configs, filepath.Join(s.root, "lab", "run", "simulated.yaml"))
		upstream = fmt.Sprintf("http://127.0.0.1:%d", s.comfyPort)
	}
	p.environment = []string{
		"OTELCOL_GPU_COMFYUI=" + upstream, "OTELCOL_GPU_COMFYUI_PROXY=" + p.proxy,
		"OTELCOL_GPU_COMFYUI_STORE=" + filepath.Join(s.folder, "comfyui"), "OTELCOL_GPU_RUSH=" + p.rushes.url, "OTELCOL_GPU_ALERTMANAGER=" + s.alertmanager(),
	}
	if !s.jaeger {
		p.configs = append(p.configs, filepath.Join(s.root, "lab", "run", "without-traces.yaml"))
		return p, nil
	}
	otlp, end, err := s.startJaeger(ctx, p)
	if err != nil {
		return nil, err
	}
	ends = append(ends, end)
	p.environment = append(p.environment, "OTELCOL_GPU_TRACES_ENDPOINT="+otlp)
	return p, nil
}

// simulate starts a ComfyUI on the machine's first GPU, and users that come through
// the proxy as soon as it is there.
func (s *settings) simulate(ctx context.Context, m *machine, p *prompts) (end func(), err error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", s.comfyPort))
	if err != nil {
		return nil, err
	}
	server := fakecomfyui.NewServerWith(m.service, m.service.Options(s.version))
	server.Lag = simulation.Late(1)
	h := &http.Server{Handler: server, ReadHeaderTimeout: 10 * time.Second}
	p.users = simulation.NewUsers("http://" + p.proxy)
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	all.Go(func() {
		if err := h.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			fmt.Fprintln(os.Stderr, "the simulated ComfyUI:", err)
		}
	})
	all.Go(func() { server.Run(ctx) })
	all.Go(func() { p.users.Run(ctx, userCount, 1) })
	return func() {
		cancel()
		_ = h.Close()
		all.Wait()
	}, nil
}

// startJaeger starts the store for traces; its OTLP endpoint is on any free port.
func (s *settings) startJaeger(ctx context.Context, p *prompts) (otlp string, stop func(), err error) {
	path, err := stack.Tool(ctx, s.root, "jaeger")
	if err != nil {
		return "", nil, err
	}
	ports := stack.JaegerPorts{Query: s.tracesPort}
	for _, port := range []*int{&ports.OTLP, &ports.Admin} {
		if *port, err = stack.FreePort(); err != nil {
			return "", nil, err
		}
	}
	arguments, err := stack.JaegerArguments(ports)
	if err != nil {
		return "", nil, err
	}
	jaeger, err := stack.Start(s.folder, "jaeger", path, stack.JaegerEnvironment, arguments...)
	if err != nil {
		return "", nil, err
	}
	if err := jaeger.WaitHTTP(ctx, fmt.Sprintf("http://127.0.0.1:%d/", ports.Admin)); err != nil {
		end(jaeger)
		return "", nil, err
	}
	p.traces = fmt.Sprintf("http://127.0.0.1:%d", s.tracesPort)
	return fmt.Sprintf("127.0.0.1:%d", ports.OTLP), func() { end(jaeger) }, nil
}

// print prints the addresses.
func (p *prompts) print() {
	if p.proxy == "" {
		return
	}
	fmt.Printf("ComfyUI    http://%s, through the proxy\n", p.proxy)
	if p.traces == "" {
		fmt.Println("traces     not stored; JAEGER=1 starts a store for them")
		fmt.Println("report     make report WINDOW=1h   (writes report.html: what the GPUs did for the images)")
		return
	}
	fmt.Printf("traces     %s/api/traces?service=comfyui   (Jaeger's API; built from source it has no page)\n", p.traces)
	fmt.Printf("report     make report WINDOW=1h TRACES=%s   (writes report.html: what the GPUs did for the images, and why the slowest were slow)\n", p.traces)
}

// rushes are asked for by Enter, and by the page's button, which posts to the server.
type rushes struct {
	asked  chan struct{}
	server *http.Server
	url    string
}

// listen waits for the page's button on any free port of the loopback interface.
func (r *rushes) listen(ctx context.Context) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	r.asked, r.url = make(chan struct{}), "http://"+listener.Addr().String()+"/rush"
	mux := http.NewServeMux()
	mux.HandleFunc("POST /rush", func(w http.ResponseWriter, request *http.Request) {
		select {
		case r.asked <- struct{}{}:
			w.WriteHeader(http.StatusAccepted)
		case <-request.Context().Done():
		case <-time.After(time.Second): // READY is yet to come
			http.Error(w, "the simulation has not started yet", http.StatusServiceUnavailable)
		}
	})
	r.server = &http.Server{Handler: ownOnly(listener.Addr().String(), mux), ReadHeaderTimeout: time.Second}
	go func() { _ = r.server.Serve(listener) }()
	return nil
}

// ownOnly refuses what a page of another origin sends, and requests that name another host than
// the address: the collector sends neither.
func ownOnly(address string, next http.Handler) http.Handler {
	protected := http.NewCrossOriginProtection().Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		if request.Host != address {
			http.Error(w, "this host is not allowed", http.StatusForbidden)
			return
		}
		protected.ServeHTTP(w, request)
	})
}

// readEnter asks for a rush each time Enter is pressed. It ends with the program.
func (r *rushes) readEnter(ctx context.Context) {
	for lines := bufio.NewScanner(os.Stdin); ctx.Err() == nil && lines.Scan(); {
		select {
		case r.asked <- struct{}{}:
		case <-ctx.Done():
		}
	}
}

// serveRushes causes a rush each time it is asked for.
func (p *prompts) serveRushes(ctx context.Context, r *rush) {
	fmt.Println("Press Enter, or the page's button, to cause a rush until the alert on a full GPU has fired (about four minutes)")
	ctx, cancel := context.WithCancel(ctx)
	var caused sync.WaitGroup
	before := p.end
	p.end = func() {
		cancel()
		caused.Wait()
		before()
	}
	go p.rushes.readEnter(ctx)
	caused.Go(func() {
		for {
			select {
			case <-p.rushes.asked:
				caused.Go(func() { r.run(ctx) })
			case <-ctx.Done():
				return
			}
		}
	})
}
