//go:build linux && cgo

package nvmllib

import (
	"errors"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"
)

// KernelLog is where the kernel's messages are read from.
const KernelLog = "/dev/kmsg"

// xidLine is how the driver writes an XID into the kernel's log:
//
//	NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, name=python3, GPU has fallen off the bus.
var xidLine = regexp.MustCompile(`NVRM: Xid \((?:PCI:)?([0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2})(?:\.[0-9a-fA-F])?[^)]*\): ([0-9]{1,9})\b`)

// parseXID reads a message of the kernel's log; false if it tells no XID.
func parseXID(message string) (pci string, xid uint64, ok bool) {
	m := xidLine.FindStringSubmatch(message)
	if m == nil {
		return "", 0, false
	}
	xid, err := strconv.ParseUint(m[2], 10, 64)
	return shortPCI(m[1]), xid, err == nil
}

// shortPCI writes an address without function and leading zeros of the domain,
// in lower case: NVML, sysfs and the kernel's log write them differently.
func shortPCI(address string) string {
	address, _, _ = strings.Cut(strings.ToLower(address), ".")
	domain, rest, ok := strings.Cut(address, ":")
	if !ok {
		return address
	}
	return strings.TrimLeft(domain, "0") + ":" + rest
}

// kernelLog reads the kernel's messages from now on. It is the second source of
// XIDs, for cards that NVML's event set does not cover: those that are covered
// are left to it, so that nothing is told twice.
type kernelLog struct {
	file  *os.File
	ended chan struct{}
}

// openKernelLog begins to read, or says once why it cannot.
func (s *Session) openKernelLog() {
	if s.kernelLog != nil || s.kernelLogPath == "" || s.saidNoKernelLog {
		return
	}
	file, err := os.OpenFile(s.kernelLogPath, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err == nil {
		_, err = file.Seek(0, io.SeekEnd) // what was before is history
		if errors.Is(err, syscall.ESPIPE) {
			err = nil
		}
	}
	if err != nil {
		s.saidNoKernelLog = true
		s.log.Warn("a card does not report XIDs by events, and the kernel's log cannot be read instead: its XIDs are not seen. Give the collector the group or the capability (CAP_SYSLOG) to read it",
			zap.Error(err))
		return
	}
	s.kernelLog = &kernelLog{file: file, ended: make(chan struct{})}
	go s.readKernelLog(s.kernelLog)
}

func (s *Session) readKernelLog(k *kernelLog) {
	defer close(k.ended)
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
				s.deliverFromKernelLog(pci, xid)
			}
		}
	}
}

func (s *Session) deliverFromKernelLog(pci string, xid uint64) {
	s.mu.Lock()
	var card *Card
	for _, c := range s.snapshot.Cards {
		if !s.covered[c] && shortPCI(c.Identity().PCIBusID) == pci {
			card = c
		}
	}
	subscribers := s.xidSubscribers()
	s.mu.Unlock()
	if card == nil {
		return
	}
	for _, f := range subscribers {
		f(XIDEvent{Card: card, XID: xid, Time: time.Now()})
	}
}

// closeKernelLog ends the reading.
func (s *Session) closeKernelLog() {
	if s.kernelLog != nil {
		_ = s.kernelLog.file.Close() // ends the read that is under way
		<-s.kernelLog.ended
		s.kernelLog = nil
	}
}
