// SPDX-License-Identifier: Apache-2.0

package owner

import (
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

const (
	id  = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	id2 = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210"
	uid = "11111111-2222-3333-4444-555555555555"
)

func TestContainerAndPodOfACgroup(t *testing.T) {
	under := strings.ReplaceAll(uid, "-", "_")
	for path, want := range map[string]cgroupOwner{
		// cgroup v1, cgroupfs
		"/docker/" + id: {containerID: id},
		"/kubepods/besteffort/pod" + uid + "/" + id:       {id, uid},
		"/kubepods/pod" + uid + "/" + id:                  {id, uid},
		"/kubepods/burstable/pod" + uid + "/crio-" + id:   {id, uid},
		"/libpod_parent/libpod-" + id:                     {containerID: id},
		"/machine.slice/libpod-" + id + ".scope/ctr":      {containerID: id},
		"/system.slice/docker-" + id + ".scope":           {containerID: id},
		"/docker/" + id + "/docker/" + id2:                {containerID: id2},
		"/docker/" + id + "/kubelet/kubepods/pod" + uid:   {id, uid},
		"/system.slice/containerd.service/kubepods/" + id: {containerID: id},
		// systemd
		"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + under + ".slice/cri-containerd-" + id + ".scope": {id, uid},
		"/kubepods.slice/kubepods-pod" + under + ".slice/crio-" + id + ".scope":                                              {id, uid},
		"/kubepods.slice/kubepods-pod" + under + ".slice/docker-" + id + ".scope/init":                                       {id, uid},
		"/system.slice/kubepods-besteffort-pod" + under + ".slice:cri-containerd:" + id:                                      {id, uid},
		"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + id + ".scope/container":                         {containerID: id},
		// relative to a cgroup namespace
		"/../../kubepods-besteffort-pod" + under + ".slice/cri-containerd-" + id + ".scope": {id, uid},
		// no container
		"/":                                   {},
		"/user.slice/user-1000.slice/session": {},
		"/kubepods.slice/kubepods-pod" + under + ".slice/crio-conmon-" + id + ".scope": {podUID: uid},
		"/system.slice/" + id[:32] + ".scope":                                          {},
	} {
		assert.Equal(t, want, parseCgroupPath(path), path)
	}
}

func TestHierarchiesThatLackTheContainerDoNotHideIt(t *testing.T) {
	assert.Equal(t, cgroupOwner{id, uid}, parseCgroups([]string{"/", "/user.slice", "/kubepods/pod" + uid + "/" + id, "/"}))
}

func TestContainerOfAMount(t *testing.T) {
	for root, want := range map[string]string{
		"/var/lib/docker/containers/" + id + "/hostname":                         id,
		"/containers/storage/overlay-containers/" + id + "/userdata/resolv.conf": id,
		"/var/lib/kubelet/pods/" + uid + "/etc-hosts":                            "",
		"/":                                "",
		"/var/lib/docker/containers/" + id: "",
		"/home/someone/containers/" + strings.ToUpper(id) + "/x":                               "",
		"/run/containerd/io.containerd.grpc.v1.cri/sandboxes/" + id + "/resolv.conf (deleted)": "",
	} {
		assert.Equal(t, want, parseMounts([]string{"/", root}), root)
	}
}

func FuzzCgroupPath(f *testing.F) {
	f.Add("/kubepods.slice/kubepods-pod" + strings.ReplaceAll(uid, "-", "_") + ".slice/cri-containerd-" + id + ".scope")
	f.Add("/docker/" + id)
	f.Add("::")
	f.Add("/a:b/" + id)
	hex := regexp.MustCompile(`^([0-9a-f]{64})?$`)
	f.Fuzz(func(t *testing.T, path string) {
		o := parseCgroupPath(path)
		assert.Regexp(t, hex, o.containerID)
		assert.Contains(t, path, o.containerID)
	})
}
