// SPDX-License-Identifier: Apache-2.0

package owner

import (
	"cmp"
	"regexp"
	"strings"
)

// cgroupOwner is the owner by the paths of a process's cgroups.
type cgroupOwner struct {
	containerID string
	// podUID is Kubernetes', with dashes.
	podUID string
}

var (
	// A container's own cgroup: …/docker-<id>.scope, …/cri-containerd-<id>.scope,
	// …/crio-<id>.scope, …/libpod-<id>.scope with systemd; …/docker/<id>,
	// …/kubepods/besteffort/pod<uid>/<id>, …/libpod-<id> with cgroupfs.
	containerPattern = regexp.MustCompile(`^(?:[a-z-]+-)?([0-9a-f]{64})(?:\.scope)?$`)
	// kubepods-burstable-pod<uid with underscores>.slice, or pod<uid>.
	podPattern = regexp.MustCompile(
		`^(?:kubepods.*-)?pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}|[0-9a-f]{32})(?:\.slice)?$`,
	)
	// conmon's cgroup carries the id of the container that it watches over.
	watcherPattern = regexp.MustCompile(`conmon`)
)

// parseCgroupPath reads one path. The innermost container wins: Docker in
// Docker, and Kubernetes in containers, nest.
func parseCgroupPath(path string) (o cgroupOwner) {
	for part := range strings.SplitSeq(path, "/") {
		if m := podPattern.FindStringSubmatch(part); m != nil {
			o.podUID = strings.ReplaceAll(m[1], "_", "-")
		}
		if watcherPattern.MatchString(part) {
			continue
		}
		// containerd without systemd: kubepods-….slice:cri-containerd:<id>
		if at := strings.LastIndexByte(part, ':'); at >= 0 {
			if m := podPattern.FindStringSubmatch(part[:strings.IndexByte(part, ':')]); m != nil {
				o.podUID = strings.ReplaceAll(m[1], "_", "-")
			}
			part = part[at+1:]
		}
		if m := containerPattern.FindStringSubmatch(part); m != nil {
			o.containerID = m[1]
		}
	}
	return o
}

// parseCgroups joins the owners by the paths of all hierarchies; with cgroups v1 some
// lack the container.
func parseCgroups(paths []string) (o cgroupOwner) {
	for _, path := range paths {
		p := parseCgroupPath(path)
		o.containerID = cmp.Or(o.containerID, p.containerID)
		o.podUID = cmp.Or(o.podUID, p.podUID)
	}
	return o
}

// mountPattern finds the container in the mounts that its runtime makes into it,
// such as …/docker/containers/<id>/hostname: with a cgroup namespace of its own, a
// process sees its cgroup as "/".
var mountPattern = regexp.MustCompile(`/(?:containers|overlay-containers)/([0-9a-f]{64})/`)

// parseMounts reads the roots of a process's mounts.
func parseMounts(roots []string) string {
	for _, root := range roots {
		if m := mountPattern.FindStringSubmatch(root); m != nil {
			return m[1]
		}
	}
	return ""
}
