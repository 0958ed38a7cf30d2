// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakecomfyui"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
	"github.com/otelcol-gpu/otelcol-gpu/lab/stack"
)

// settings come from the environment, so that `make run NAME=value` sets them.
type settings struct {
	storePort, healthPort, telemetryPort int
	proxyPort, tracesPort, comfyPort     int
	vmalertPort, alertmanagerPort        int
	logsPort, pagePort                   int
	comfyui                              string              // a real one's URL
	version                              fakecomfyui.Version // of the simulated one
	seconds                              int
	interval                             time.Duration
	jaeger                               bool
	gpus                                 []string
	law                                  int // the seed of what photos cost; 0: all of a size the same
	root, folder                         string
}

func readSettings() (s settings, err error) {
	for name, p := range map[string]struct {
		to       *int
		fallback int
	}{
		"STORE_PORT":        {&s.storePort, 8428},
		"HEALTH_PORT":       {&s.healthPort, 13133},
		"TELEMETRY_PORT":    {&s.telemetryPort, 8888},
		"PROXY_PORT":        {&s.proxyPort, 8189},
		"TRACES_PORT":       {&s.tracesPort, 16686},
		"COMFYUI_PORT":      {&s.comfyPort, 8188},
		"VMALERT_PORT":      {&s.vmalertPort, 8880},
		"ALERTMANAGER_PORT": {&s.alertmanagerPort, 9093},
		"LOGS_PORT":         {&s.logsPort, 9428},
		"PAGE_PORT":         {&s.pagePort, 8890},
		"RUN_SECONDS":       {&s.seconds, 0},
		"LAW":               {&s.law, 0},
	} {
		*p.to = p.fallback
		if v := os.Getenv(name); v != "" {
			if *p.to, err = strconv.Atoi(v); err != nil || *p.to < 0 {
				return s, fmt.Errorf("%s=%s: give a number, such as %s=%d", name, v, name, p.fallback)
			}
		}
	}
	s.interval = time.Second
	if v := os.Getenv("INTERVAL"); v != "" {
		if s.interval, err = time.ParseDuration(v); err != nil || s.interval <= 0 {
			return s, fmt.Errorf("INTERVAL=%s: give a duration, such as INTERVAL=1s", v)
		}
	}
	switch v := os.Getenv("JAEGER"); v {
	case "", "0":
	case "1":
		s.jaeger = true
	default:
		return s, fmt.Errorf("JAEGER=%s is not a valid value: use JAEGER=1 to store traces", v)
	}
	s.comfyui = os.Getenv("COMFYUI")
	if u, err := url.Parse(s.comfyui); s.comfyui != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
		return s, fmt.Errorf("COMFYUI=%s: give the server's URL, such as COMFYUI=http://127.0.0.1:8188", s.comfyui)
	}
	s.version = fakecomfyui.Older
	if v := os.Getenv("COMFYUI_VERSION"); v != "" {
		if s.version = fakecomfyui.Version(v); !slices.Contains(fakecomfyui.Versions, s.version) {
			return s, fmt.Errorf("COMFYUI_VERSION=%s is not a valid version of the simulated ComfyUI: use one of %s", v, fakecomfyui.Versions)
		}
	}
	gpus := os.Getenv("SIMULATED_CARDS")
	if gpus == "" {
		gpus = "rtx-4080-super,l40s,h100"
	}
	s.gpus = strings.Split(gpus, ",")
	if s.root, err = figure.Root(); err != nil {
		return s, err
	}
	if s.folder = os.Getenv("RUN_FOLDER"); s.folder == "" {
		s.folder = filepath.Join(s.root, ".run")
	}
	return s, os.MkdirAll(s.folder, 0o755)
}

// usedPort is a port with its name in the environment.
type usedPort struct {
	name string
	port int
	use  string
}

// checkPorts returns an error that names every port that is in use.
func checkPorts(ports ...usedPort) error {
	var errs []error
	for _, p := range ports {
		if err := stack.CheckPort(p.port); err != nil {
			errs = append(errs, fmt.Errorf("port %d for %s is in use: stop what listens there (ss -ltnp 'sport = :%d'), or choose another: make run %s=%d",
				p.port, p.use, p.port, p.name, p.port+1000))
		}
	}
	return errors.Join(errs...)
}
