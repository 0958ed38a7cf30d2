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

// KernelLog is the device of the kernel's messages.
const KernelLog = "/dev/kmsg"

// xidLine matches an XID in the kernel log:
//
//	NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, name=python3, GPU has fallen off the bus.
var xidLine = regexp.MustCompile(`NVRM: Xid \((?:PCI:)?([0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2})(?:\.[0-9a-fA-F])?[^)]*\): ([0-9]{1,9})\b`)

// parseXID reads a message of the kernel log; ok is false if it is not an XID.
func parseXID(message string) (pci string, xid uint64, ok bool) {
	m := xidLine.FindStringSubmatch(message)
	if m == nil {
		return "", 0, false
	}
	xid, err := strconv.ParseUint(m[2], 10, 64)
	return gpuname.PCI(m[1]), xid, err == nil
}

// kernelLog reads the kernel's messages from now on. It is the second source of XIDs:
// for GPUs that cannot be registered for events, and for XIDs after which no event
// arrives, such as 79, after which the GPU is lost. An XID of both sources is published
// once: a line waits for Timing.Grace, and counts only if the events of its GPU and
// number are fewer than its lines.
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

// xidSeen counts one XID by source since it was last quiet for Timing.Grace.
type xidSeen struct {
	lines, events int
	last          time.Time
}

// maxSeen bounds the XIDs that are compared; beyond it lines count at once.
const maxSeen = 4096

// ensureKernelLog starts reading. A failure is logged once, if a GPU needs the log.
func (s *Session) ensureKernelLog(needed bool) {
	if s.kernelLog != nil {
		return
	}
	file, err := os.OpenFile(s.timing.KernelLog, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err == nil {
		_, err = file.Seek(0, io.SeekEnd) // earlier messages are not read
		if errors.Is(err, syscall.ESPIPE) {
			err = nil
		}
	}
	if err != nil {
		if needed && s.once.First("kernel log") {
			s.log.Warn("A GPU does not report XIDs as events, and the kernel log cannot be read: XIDs of this GPU are missed. Grant the collector CAP_SYSLOG, or add its user to the group that may read /dev/kmsg",
				zap.Error(err))
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

// observeLine counts one XID of the kernel log. If its GPU reports no events, it is
// published at once.
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
	if !covered || !k.count(xidKey{gpu, xid}, true, s.timing.Now()) {
		s.xids.Publish(XIDEvent{GPU: gpu, XID: xid, Time: s.timing.Now()})
	}
}

// count counts one XID; false if there is no room to compare.
func (k *kernelLog) count(key xidKey, line bool, now time.Time) bool {
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
	if line {
		seen.lines++
	} else {
		seen.events++
	}
	seen.last = now
	return true
}

// settleKernelLog publishes the lines without an event.
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

// unmatched returns a key for each quiet line without an event.
func (k *kernelLog) unmatched(now time.Time, grace time.Duration) (keys []xidKey) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for key, seen := range k.seen {
		if now.Sub(seen.last) < grace {
			continue
		}
		for range seen.lines - seen.events {
			keys = append(keys, key)
		}
		delete(k.seen, key)
	}
	return keys
}

// closeKernelLog stops reading.
func (s *Session) closeKernelLog() {
	k := s.kernelLog
	if k == nil {
		return
	}
	close(k.stop)
	_ = k.file.Close() // ends a running read
	k.ended.Wait()
	s.mu.Lock()
	s.kernelLog = nil
	s.mu.Unlock()
}
