// SPDX-License-Identifier: Apache-2.0

package owner

import (
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
)

// podNames finds a pod's and a container's names by the container's id. The kubelet's
// API has no container ids, but the kubelet's log files have both in their names:
// containers/<pod>_<namespace>_<container>-<id>.log and
// pods/<namespace>_<pod>_<uid>/<container>/.
type podNames struct {
	logs string // /var/log

	// mu guards everything declared below.
	mu          sync.Mutex
	byContainer map[string]podName
	byUID       map[string]podName
	refreshed   time.Time
	omitted     bool // a folder had more names than are read
}

type podName struct{ namespace, pod, container string }

// maxNames bounds the names that are read of a folder. A node has a few hundred pods.
const maxNames = 8192

// minRefresh is the shortest time between two readings of the folders; an unknown
// container causes one.
const minRefresh = 2 * time.Second

var (
	containerLog = regexp.MustCompile(`^(.+)_(.+)_(.+)-([0-9a-f]{64})\.log$`)
	podFolder    = regexp.MustCompile(`(?s)^([^_]+)_(.+)_([^_]+)$`)
)

// find returns the names of a container, or of its pod if the container is unknown.
func (n *podNames) find(o cgroupOwner, now time.Time) (podName, bool) {
	if n.logs == "" || o.containerID == "" && o.podUID == "" {
		return podName{}, false
	}
	n.mu.Lock()
	defer n.mu.Unlock() // also while the folders are read, so that they are read once
	name, ok := n.known(o)
	if !ok && now.Sub(n.refreshed) >= minRefresh {
		n.refreshed = now
		n.refresh()
		name, ok = n.known(o)
	}
	return name, ok
}

func (n *podNames) known(o cgroupOwner) (podName, bool) {
	if name, ok := n.byContainer[o.containerID]; ok {
		return name, true
	}
	name, ok := n.byUID[o.podUID]
	return name, ok
}

func (n *podNames) refresh() {
	n.byContainer, n.byUID = map[string]podName{}, map[string]podName{}
	n.omitted = false
	for _, name := range n.entries("containers") {
		if id, p, ok := parseContainerLog(name); ok {
			n.byContainer[id] = p
		}
	}
	for _, name := range n.entries("pods") {
		if uid, p, ok := parsePodFolder(name); ok {
			if containers := n.entries(filepath.Join("pods", name)); len(containers) == 1 {
				p.container = containers[0]
			}
			n.byUID[uid] = p
		}
	}
}

// entries lists the names in a folder, up to maxNames; none if the folder does not exist.
func (n *podNames) entries(folder string) []string {
	f, err := os.Open(filepath.Join(n.logs, folder))
	if err != nil {
		return nil
	}
	defer f.Close()
	list, _ := f.Readdirnames(maxNames + 1)
	if len(list) > maxNames {
		list, n.omitted = list[:maxNames], true
	}
	return list
}

// Bounds implements [bounds.Registered].
func (n *podNames) Bounds() []bounds.Bound {
	n.mu.Lock()
	defer n.mu.Unlock()
	return []bounds.Bound{
		{Name: "owner.podNames.byContainer", Max: maxNames, Size: len(n.byContainer)},
		{Name: "owner.podNames.byUID", Max: maxNames, Size: len(n.byUID)},
	}
}

func parseContainerLog(name string) (id string, p podName, ok bool) {
	m := containerLog.FindStringSubmatch(name)
	if m == nil {
		return "", podName{}, false
	}
	return m[4], podName{pod: m[1], namespace: m[2], container: m[3]}, true
}

func parsePodFolder(name string) (uid string, p podName, ok bool) {
	m := podFolder.FindStringSubmatch(name)
	if m == nil {
		return "", podName{}, false
	}
	return m[3], podName{namespace: m[1], pod: m[2]}, true
}
