// SPDX-License-Identifier: Apache-2.0

package owner

import (
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"time"
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
}

type podName struct{ namespace, pod, container string }

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
	for _, name := range entries(filepath.Join(n.logs, "containers")) {
		if id, p, ok := parseContainerLog(name); ok {
			n.byContainer[id] = p
		}
	}
	for _, name := range entries(filepath.Join(n.logs, "pods")) {
		if uid, p, ok := parsePodFolder(name); ok {
			if containers := entries(filepath.Join(n.logs, "pods", name)); len(containers) == 1 {
				p.container = containers[0]
			}
			n.byUID[uid] = p
		}
	}
}

// entries lists the names in a folder; none if the folder does not exist.
func entries(folder string) []string {
	f, err := os.Open(folder)
	if err != nil {
		return nil
	}
	defer f.Close()
	list, _ := f.Readdirnames(-1)
	return list
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
