// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvml

import (
	"errors"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/internal/gpuname"
)

// KernelLog is where the kernel's messages are read from.
const KernelLog = "/dev/kmsg"

// xidLine is how the driver writes an XID into the kernel's log:
//
//	NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, name=python3, GPU has fallen off the bus.
var xidLine = regexp.MustCompile(`NVRM: Xid \((?:PCI:)?([0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2})(?:\.[0-9a-fA-F])?[^)]*\): ([0-9]{1,9})\b`)

// parseXID reads a message of the kernel's log; false if it is not an XID.
func parseXID(message string) (pci string, xid uint64, ok bool) {
	m := xidLine.FindStringSubmatch(message)
	if m == nil {
		return "", 0, false
	}
	xid, err := strconv.ParseUint(m[2], 10, 64)
	return gpuname.PCI(m[1]), xid, err == nil
}

// kernelLog reads the kernel's messages from now on. It is the second source of
// XIDs: for GPUs that refuse to be registered for events, and for XIDs after
// which no event comes, such as 79, with which a GPU is gone. What both sources report is
// published once: a line waits for grace, and counts only if there are fewer events of
// its GPU and number than lines.
type kernelLog struct {
	file  *os.File
	stop  chan struct{}
	ended sync.WaitGroup

	mu   sync.Mutex
	seen map[xidKey]*xidSeen
}

type xidKey struct {
	gpu *GPU
	xid uint64
}

// xidSeen is how one XID came since it was last at rest.
type xidSeen struct {
	surplus int // lines beyond events
	last    time.Time
}

// The ways by which an XID comes, as they count for the surplus.
const (
	byLine  = 1
	byEvent = -1
)

// maxSeen bounds what is kept to compare the two sources; beyond it lines count at once.
const maxSeen = 4096

// ensureKernelLog begins to read. If it cannot and a GPU needs it, this is logged once.
func (s *Session) ensureKernelLog(needed bool) {
	if s.kernelLog != nil {
		return
	}
	file, err := os.OpenFile(s.timing.KernelLog, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err == nil {
		_, err = file.Seek(0, io.SeekEnd) // what was before is history
		if errors.Is(err, syscall.ESPIPE) {
			err = nil
		}
	}
	if err != nil {
		if needed && s.once.First("kernel log") {
			s.log.Warn(
				"A GPU does not report XIDs as events, and the kernel log cannot be read: XIDs of this GPU are missed. Grant the collector CAP_SYSLOG, or add its user to the group that may read /dev/kmsg",
				zap.Error(err),
			)
		}
		return
	}
	k := &kernelLog{file: file, stop: make(chan struct{}), seen: map[xidKey]*xidSeen{}}
	s.mu.Lock()
	s.kernelLog = k
	s.mu.Unlock()
	k.ended.Go(func() { s.readKernelLog(k) })
	k.ended.Go(func() { s.settleKernelLog(k) })
}

func (s *Session) readKernelLog(k *kernelLog) {
	buffer := make([]byte, 8192) // a record is shorter, and each read gives one
	for {
		n, err := k.file.Read(buffer)
		switch {
		case errors.Is(err, syscall.EPIPE):
			continue // records were overwritten before they could be read
		case errors.Is(err, io.EOF) && n == 0 || err != nil:
			return
		}
		for line := range strings.Lines(string(buffer[:n])) {
			if pci, xid, ok := parseXID(line); ok {
				s.observeLine(k, pci, xid)
			}
		}
	}
}

// observeLine handles one XID of the kernel's log. That of a GPU without events is
// delivered at once.
func (s *Session) observeLine(k *kernelLog, pci string, xid uint64) {
	s.mu.Lock()
	var gpu *GPU
	for _, c := range s.snapshot.GPUs {
		if gpuname.PCI(c.Identity().PCIBusID) == pci {
			gpu = c
		}
	}
	covered := s.covered[gpu]
	s.mu.Unlock()
	if gpu == nil {
		return
	}
	if !covered || !k.count(xidKey{gpu, xid}, byLine, s.timing.Now()) {
		s.xids.Publish(XIDEvent{GPU: gpu, XID: xid, Time: s.timing.Now()})
	}
}

// count notes one sight of an XID; false if there is no room to compare.
func (k *kernelLog) count(key xidKey, way int, now time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	seen, ok := k.seen[key]
	if !ok {
		if len(k.seen) >= maxSeen {
			return false
		}
		seen = &xidSeen{}
		k.seen[key] = seen
	}
	seen.surplus += way
	seen.last = now
	return true
}

// settleKernelLog delivers the lines for which no event came.
func (s *Session) settleKernelLog(k *kernelLog) {
	ticker := time.NewTicker(max(s.timing.Grace/4, time.Millisecond))
	defer ticker.Stop()
	for {
		select {
		case <-k.stop:
			return
		case <-ticker.C:
			now := s.timing.Now()
			for _, key := range k.unmatched(now, s.timing.Grace) {
				s.xids.Publish(XIDEvent{GPU: key.gpu, XID: key.xid, Time: now})
			}
		}
	}
}

// unmatched returns a key for each line without an event, of those at rest.
func (k *kernelLog) unmatched(now time.Time, grace time.Duration) (keys []xidKey) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for key, seen := range k.seen {
		if now.Sub(seen.last) < grace {
			continue
		}
		for range seen.surplus {
			keys = append(keys, key)
		}
		delete(k.seen, key)
	}
	return keys
}

// closeKernelLog ends the reading.
func (s *Session) closeKernelLog() {
	k := s.kernelLog
	if k == nil {
		return
	}
	close(k.stop)
	_ = k.file.Close() // ends the read that is under way
	k.ended.Wait()
	s.mu.Lock()
	s.kernelLog = nil
	s.mu.Unlock()
}
