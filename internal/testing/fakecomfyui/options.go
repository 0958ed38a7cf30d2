// SPDX-License-Identifier: Apache-2.0

package fakecomfyui

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"regexp"
	"time"
)

// Version is a release of ComfyUI.
type Version string

// The versions of which there are recordings.
const (
	Older Version = "0.3.64" // October 2025; the default
	Newer Version = "0.33.0" // August 2026
)

// Versions lists them, oldest first.
var Versions = []Version{Older, Newer}

// Options are what servers differ in.
type Options struct {
	Version Version
	// Devices is how many GPUs /system_stats lists. Default: 1. The older version lists one.
	Devices int
	// Arguments are those of the server's command line, Torch is PyTorch's version and Device the
	// device's name, as /system_stats shows them. Default: those of the recorded servers.
	Arguments     []string
	Torch, Device string
	// Aimdo shows that comfy-aimdo is installed, which Dynamic VRAM needs (newer version).
	Aimdo bool
	// Compress compresses answers for clients that offer it (--enable-compress-response-body).
	Compress bool
	// NewerTorch names the exception of a GPU without room as torch does since 2.5.
	NewerTorch bool
	// SixthSlot shows the sixth, sensitive slot of queue items in /queue. The recorded 0.33.0
	// cuts it off before it answers; clients must not depend on that.
	SixthSlot bool
	// Now is the clock of timestamps and of the progress messages' limit. Default: time.Now.
	Now func() time.Time
	// ID makes the ids of prompts and of sockets, which are UUIDs. Default: random ones.
	ID func() string
}

func (o *Options) complete() {
	if o.Version == "" {
		o.Version = Older
	}
	o.Devices = max(o.Devices, 1)
	if o.Arguments == nil {
		o.Arguments = []string{"main.py", "--simulated"}
	}
	o.Torch, o.Device = cmp.Or(o.Torch, "2.0.0 (simulated)"), cmp.Or(o.Device, "(simulated)")
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.ID == nil {
		o.ID = newID
	}
}

func (o *Options) newer() bool { return o.Version == Newer }

func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

var canonicalID = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// validID reports whether the newer version accepts an id for a prompt.
func validID(id string) bool { return canonicalID.MatchString(id) }
