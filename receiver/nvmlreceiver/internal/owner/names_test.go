// SPDX-License-Identifier: Apache-2.0

package owner

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestPodOfAContainerFromTheKubeletsLogFolders(t *testing.T) {
	logs := t.TempDir()
	for _, dir := range []string{"containers", "pods/photos_comfyui-0_" + uid + "/comfyui", "pods/odd"} {
		require.NoError(t, os.MkdirAll(filepath.Join(logs, dir), 0o750))
	}
	require.NoError(t, os.Symlink("/nowhere", filepath.Join(logs, "containers", "web-7d4_shop_nginx-proxy-"+id+".log")))
	require.NoError(t, os.Symlink("/nowhere", filepath.Join(logs, "containers", "not a log")))
	n := podNames{logs: logs}
	now := time.Now()
	got, ok := n.find(cgroupOwner{containerID: id}, now)
	require.True(t, ok)
	assert.Equal(t, podName{"shop", "web-7d4", "nginx-proxy"}, got)
	got, ok = n.find(cgroupOwner{containerID: id2, podUID: uid}, now)
	require.True(t, ok)
	assert.Equal(t, podName{"photos", "comfyui-0", "comfyui"}, got)

	// A container that starts later is found, though the folders are not read each time.
	require.NoError(t, os.Symlink("/nowhere", filepath.Join(logs, "containers", "new_shop_main-"+id2+".log")))
	_, ok = n.find(cgroupOwner{containerID: id2}, now.Add(minRefresh/2))
	assert.False(t, ok)
	got, ok = n.find(cgroupOwner{containerID: id2}, now.Add(minRefresh))
	require.True(t, ok)
	assert.Equal(t, "new", got.pod)
}

func FuzzLogNames(f *testing.F) {
	f.Add("web-7d4_shop_nginx-proxy-" + id + ".log")
	f.Add("photos_comfyui-0_" + uid)
	f.Add("__")
	f.Fuzz(func(t *testing.T, name string) {
		if _, p, ok := parseContainerLog(name); ok && (p.pod == "" || p.namespace == "" || p.container == "") {
			t.Errorf("%q gives %+v", name, p)
		}
		if uid, p, ok := parsePodFolder(name); ok && (uid == "" || p.pod == "" || p.namespace == "") {
			t.Errorf("%q gives %q %+v", name, uid, p)
		}
	})
}
