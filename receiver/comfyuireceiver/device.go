package comfyuireceiver

import (
	"context"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/procfs"
)

// deviceAuto finds the card by the process that listens on the upstream's port.
const deviceAuto = "auto"

var cardPattern = regexp.MustCompile(`^(?i)(GPU|MIG)-[0-9a-f/-]+$`)

// deviceFinder tells which card a ComfyUI server uses.
type deviceFinder struct {
	wanted string
	port   uint64
	local  bool
	cards  *cardsOf

	opened bool

	mu    sync.Mutex
	found string
	pid   int // of the server's process, once its card is found
	fake  bool
}

func newDeviceFinder(wanted string, base *url.URL, cards *cardsOf) *deviceFinder {
	f := &deviceFinder{wanted: wanted, cards: cards}
	if wanted != deviceAuto {
		f.found = wanted
		return f
	}
	port := base.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[base.Scheme]
	}
	f.port, _ = strconv.ParseUint(port, 10, 16)
	ip := net.ParseIP(base.Hostname())
	f.local = base.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
	return f
}

// id is the card's hw.id; empty while it is not known.
func (f *deviceFinder) id() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.found
}

// process is the server's process, while its card is known; 0 if not.
func (f *deviceFinder) process() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pid
}

func (f *deviceFinder) simulated() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fake
}

// How often the card is looked for. One that was found is looked for again: a server
// that restarts may get another one. A server has none before it has loaded a model.
const (
	lookEvery  = time.Second
	lookAgain  = 10 * time.Second
	firstLooks = time.Second // how long the start waits for NVML's first look
)

// begin opens NVML, and learns whether the cards are simulated before the first
// prompt can come.
func (f *deviceFinder) begin() {
	if f.wanted != deviceAuto || !f.local || f.port == 0 || !f.cards.open() {
		return
	}
	f.opened = true
	f.cards.wait(firstLooks)
	f.note("", 0, f.cards.simulated())
}

// end is for a start that failed.
func (f *deviceFinder) end() {
	if f.opened {
		f.cards.close()
	}
}

func (f *deviceFinder) note(found string, pid int, fake bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if found != "" {
		f.found, f.pid = found, pid
	}
	f.fake = fake
}

func (f *deviceFinder) run(ctx context.Context) {
	if !f.opened {
		return
	}
	defer f.cards.close()
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	var last time.Time
	for pid := 0; ; {
		if f.id() == "" || time.Since(last) >= lookAgain {
			last = time.Now()
			found := ""
			if pid = processOn("/proc", f.port, pid); pid != 0 {
				found = f.cards.of(ctx, pid)
			}
			f.note(found, pid, f.cards.simulated())
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// processOn is the process that listens on a TCP port; 0 if none can be told. The
// one that did before is looked at first: looking at all takes long on large
// machines.
func processOn(root string, port uint64, before int) int {
	fs, err := procfs.NewFS(root)
	if err != nil {
		return 0
	}
	inodes := map[string]bool{}
	const listen = 0x0A
	// These read files that everybody may read; a netlink socket would tell the same.
	for _, table := range []func() (procfs.NetTCP, error){fs.NetTCP, fs.NetTCP6} { //nolint:staticcheck // see above
		lines, err := table()
		if err != nil {
			continue
		}
		for _, line := range lines {
			if line.St == listen && line.LocalPort == port {
				inodes["socket:["+strconv.FormatUint(line.Inode, 10)+"]"] = true
			}
		}
	}
	if len(inodes) == 0 {
		return 0
	}
	holds := func(p procfs.Proc) bool {
		targets, err := p.FileDescriptorTargets()
		return err == nil && slices.ContainsFunc(targets, func(t string) bool { return inodes[t] }) // an error: another user's
	}
	if p, err := fs.Proc(before); before != 0 && err == nil && holds(p) {
		return before
	}
	all, err := fs.AllProcs()
	if err != nil {
		return 0
	}
	for _, p := range all {
		if holds(p) {
			return p.PID
		}
	}
	return 0
}
