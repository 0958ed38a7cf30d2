// SPDX-License-Identifier: Apache-2.0

// Package stack starts the programs that a whole way through needs (the
// collector, stores, the NVML test library) and asks them, for `make run` and
// for the end-to-end tests.
package stack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// Process is a started program. It ends with the process that started it.
type Process struct {
	// Name is used in errors.
	Name string
	// Log is the file that its output goes to.
	Log    string
	cmd    *exec.Cmd
	exited chan struct{}
	err    error
}

// Start starts a program. Its output goes to dir/NAME.log; environment is added
// to this process's own.
func Start(dir, name, path string, environment []string, arguments ...string) (*Process, error) {
	log, err := os.OpenFile(filepath.Join(dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(path, arguments...)
	cmd.Env = append(os.Environ(), environment...)
	cmd.Stdout, cmd.Stderr = log, log
	// A group of its own keeps Ctrl-C from reaching it before we are asked, and
	// it ends with us however we end.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &Process{Name: name, Log: log.Name(), cmd: cmd, exited: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

// PID is the program's process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Exited is closed when the program has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Alive reports whether the program still runs.
func (p *Process) Alive() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// Kill ends the program at once and waits for its end.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// Stop sends SIGTERM, kills the program after the time given, and returns how long the
// end took.
func (p *Process) Stop(within time.Duration) (time.Duration, error) {
	begin := time.Now()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-p.exited:
		return time.Since(begin), p.err
	case <-timer.C:
		p.Kill()
		return time.Since(begin), fmt.Errorf("%s did not end within %v", p.Name, within)
	}
}

// Warnings are the first lines of a collector's log with the level warn or error, at most n of
// them, each message once.
func (p *Process) Warnings(n int) (all []string) {
	raw, err := os.ReadFile(p.Log)
	if err != nil {
		return []string{err.Error()}
	}
	const fields = 4 // time, level, source, message; then what it is about
	known := map[string]bool{}
	for line := range strings.Lines(string(raw)) {
		parts := strings.SplitN(line, "\t", fields+1)
		if len(parts) < fields || parts[1] != "warn" && parts[1] != "error" || known[parts[3]] {
			continue
		}
		known[parts[3]] = true
		if all = append(all, strings.TrimSpace(line)); len(all) == n {
			break
		}
	}
	return all
}

// Tail returns the end of the program's log.
func (p *Process) Tail() string {
	raw, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	if len(raw) > 4000 {
		raw = raw[len(raw)-4000:]
	}
	return string(raw)
}

// WaitHTTP waits until a GET of url answers 200, or the program has ended.
func (p *Process) WaitHTTP(ctx context.Context, url string) error {
	return p.wait(ctx, "answer "+url, func() bool {
		response, err := client.Get(url)
		if err != nil {
			return false
		}
		defer response.Body.Close()
		_, _ = io.Copy(io.Discard, response.Body)
		return response.StatusCode == http.StatusOK
	})
}

func (p *Process) wait(ctx context.Context, what string, holds func() bool) error {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for !holds() {
		select {
		case <-p.exited:
			return fmt.Errorf("%s ended before it would %s: %w\n%s", p.Name, what, errors.Join(p.err), p.Tail())
		case <-ctx.Done():
			return fmt.Errorf("%s did not %s in time\n%s", p.Name, what, p.Tail())
		case <-ticker.C:
		}
	}
	return nil
}

var client = &http.Client{Timeout: 10 * time.Second}

// Ports below those that the kernel gives to outgoing connections and to listeners on port 0
// (net.ipv4.ip_local_port_range begins at 32768): none of them takes a port between FreePort
// and its use.
const (
	firstPort = 15000
	lastPort  = 32000
)

// lastGiven is the last port that FreePort returned, so that it returns none twice.
var lastGiven atomic.Int64

// FreePort finds a port that is free on loopback now, and that this process has not been given
// for a long time.
func FreePort() (int, error) {
	lastGiven.CompareAndSwap(0, int64(firstPort+rand.IntN(lastPort-firstPort)))
	for range lastPort - firstPort {
		port := firstPort + int(lastGiven.Add(1)-firstPort)%(lastPort-firstPort)
		if CheckPort(port) == nil {
			return port, nil
		}
	}
	return 0, errNoPort
}

var errNoPort = fmt.Errorf("no port from %d to %d is free", firstPort, lastPort)

// CheckPort returns an error if a port cannot be listened on.
func CheckPort(port int) error {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	return l.Close()
}

// Tool is the path of a tool or a test server, built if need be (scripts/tool.sh). What runs
// meanwhile has precedence over the compilers, and they end with the context.
func Tool(ctx context.Context, root, name string) (string, error) {
	cmd := exec.CommandContext(ctx, "nice", "-n", "5", filepath.Join(root, "scripts", "tool.sh"), name)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	// A group of its own, so that the compilers end with it, not only the script.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	return strings.TrimSpace(out.String()), nil
}
