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

	mu    sync.Mutex
	found string
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

func (f *deviceFinder) simulated() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fake
}

// lookEvery is how often the card is looked for: a server that restarts may get
// another one.
const lookEvery = 10 * time.Second

func (f *deviceFinder) run(ctx context.Context) {
	if f.wanted != deviceAuto || !f.local || f.port == 0 {
		return
	}
	if !f.cards.open() {
		return
	}
	defer f.cards.close()
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	pid := 0
	for {
		if pid = processOn("/proc", f.port, pid); pid != 0 {
			if id, fake, ok := f.cards.of(ctx, pid); ok {
				f.mu.Lock()
				f.found, f.fake = id, fake
				f.mu.Unlock()
			}
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
