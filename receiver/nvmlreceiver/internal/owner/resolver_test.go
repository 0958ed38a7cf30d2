// SPDX-License-Identifier: Apache-2.0

//go:build linux

package owner

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakekubelet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sleeper starts a real process that does nothing.
func sleeper(t *testing.T, attributes *syscall.SysProcAttr) int {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	cmd.SysProcAttr = attributes
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}

func resolver(t *testing.T, s Settings) *Resolver {
	t.Helper()
	if s.Proc == "" {
		s.Proc = "/proc"
	}
	s.Observer, s.Now, s.Interval = new(answers), time.Now, time.Second
	r := New(s)
	t.Cleanup(r.Close)
	require.NoError(t, r.Check())
	return r
}

func TestProcessOfTheHostHasAnExecutableAndNoContainer(t *testing.T) {
	pid := sleeper(t, nil)
	r := resolver(t, Settings{})
	exe, err := filepath.EvalSymlinks("/proc/" + fmt.Sprint(pid) + "/exe")
	require.NoError(t, err)
	want := Owner{Executable: filepath.Base(exe)}
	require.Eventually(t, func() bool { return r.Owner(pid, "GPU-1").Executable == want.Executable }, 10*time.Second, time.Millisecond)
	assert.Equal(t, want, r.Owner(pid, "GPU-1"))
	assert.Equal(t, Owner{}, r.Owner(1<<22+1, "GPU-1"), "a process that is not there")
}

// S15: invalid UTF-8 and a newline in the name of an executable.
func TestTheNameOfAnExecutableIsALineOfValidText(t *testing.T) {
	sleep, err := exec.LookPath("sleep")
	require.NoError(t, err)
	content, err := os.ReadFile(sleep)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "a\nb\xff"+strings.Repeat("x", 200))
	require.NoError(t, os.WriteFile(path, content, 0o700))
	c := exec.Command(path, "60")
	require.NoError(t, c.Start())
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	r := resolver(t, Settings{})
	require.Eventually(t, func() bool { return strings.HasPrefix(r.Owner(c.Process.Pid, "GPU-1").Executable, "a\uFFFDb\uFFFDx") }, 10*time.Second, time.Millisecond)
	assert.True(t, utf8.ValidString(r.Owner(c.Process.Pid, "GPU-1").Executable))
}

// hierarchies are the mounted cgroup hierarchies that a test may make groups in.
func hierarchies(t *testing.T) (v1, v2 string) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	require.NoError(t, err)
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		switch {
		case len(f) < 4:
		case f[2] == "cgroup2":
			v2 = f[1]
		case f[2] == "cgroup" && strings.Contains(f[3], "name=systemd"):
			v1 = f[1]
		}
	}
	return v1, v2
}

// group makes a cgroup, moves a process there, and removes it in the end.
func group(t *testing.T, root, path string, pid int) error {
	t.Helper()
	parts := strings.Split(strings.Trim(path, "/"), "/")
	for i := range parts {
		dir := filepath.Join(append([]string{root}, parts[:i+1]...)...)
		if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
			return err
		}
		t.Cleanup(func() { _ = os.Remove(dir) })
	}
	return os.WriteFile(filepath.Join(root, path, "cgroup.procs"), fmt.Appendf(nil, "%d", pid), 0o644)
}

// TestRealProcessInRealCgroups needs the right to make cgroups, which root has;
// TestProcessTreeOfEachRuntime covers the forms for everybody.
func TestRealProcessInRealCgroups(t *testing.T) {
	v1, v2 := hierarchies(t)
	under := strings.ReplaceAll(uid, "-", "_")
	tried := 0
	for name, test := range map[string]struct{ root, path string }{
		"docker, v1":     {v1, "otelcol-gpu-test/docker/" + id},
		"kubepods, v1":   {v1, "otelcol-gpu-test/kubepods/besteffort/pod" + uid + "/" + id},
		"containerd, v2": {v2, "otelcol-gpu-test/kubepods.slice/kubepods-pod" + under + ".slice/cri-containerd-" + id + ".scope"},
		"podman, v2":     {v2, "otelcol-gpu-test/libpod-" + id + ".scope/container"},
	} {
		if test.root == "" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			// In a PID namespace of its own where that is allowed: NVML reports the host's number.
			attributes := &syscall.SysProcAttr{}
			if os.Geteuid() == 0 {
				attributes.Cloneflags = syscall.CLONE_NEWPID
			}
			pid := sleeper(t, attributes)
			if err := group(t, test.root, test.path, pid); err != nil {
				t.Skipf("cgroups cannot be made here: %v", err)
			}
			tried++
			r := resolver(t, Settings{})
			assert.Equal(t, id, r.Owner(pid, "GPU-1").ContainerID)
		})
	}
	t.Logf("%d cgroups were made", tried)
}

// tree makes a procfs with one process in it.
func tree(t *testing.T, pid int, cgroup, mounts string) string {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, fmt.Sprint(pid))
	require.NoError(t, os.MkdirAll(dir, 0o750))
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	write("stat", fmt.Sprintf("%d (python3) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0 18446744073709551615 0 0 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n", pid))
	write("cgroup", cgroup)
	write("mountinfo", mounts)
	require.NoError(t, os.Symlink("/opt/venv/bin/python3.12 (deleted)", filepath.Join(dir, "exe")))
	return root
}

func TestProcessTreeOfEachRuntime(t *testing.T) {
	under := strings.ReplaceAll(uid, "-", "_")
	for name, test := range map[string]struct{ cgroup, mounts, want string }{
		"cgroup v1":           {"12:pids:/docker/" + id + "\n1:name=systemd:/docker/" + id + "\n", "", id},
		"cgroup v2":           {"0::/kubepods.slice/kubepods-pod" + under + ".slice/crio-" + id + ".scope\n", "", id},
		"hybrid":              {"1:name=systemd:/system.slice/docker-" + id + ".scope\n0::/\n", "", id},
		"cgroup namespace":    {"0::/\n", "100 90 8:1 /var/lib/docker/containers/" + id + "/hostname /etc/hostname rw - ext4 /dev/sda1 rw\n", id},
		"no container":        {"0::/user.slice\n", "100 90 8:1 / / rw - ext4 /dev/sda1 rw\n", ""},
		"nothing can be read": {"", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := resolver(t, Settings{Proc: tree(t, 42, test.cgroup, test.mounts)})
			o := r.Owner(42, "GPU-1")
			assert.Equal(t, test.want, o.ContainerID)
			assert.Equal(t, "python3.12", o.Executable)
		})
	}
}

func TestPodsThatShareAGPUEachOwnTheirProcesses(t *testing.T) {
	s := fakekubelet.New(t,
		fakekubelet.Pod("photos", "a", "main", "nvidia.com/gpu", "GPU-1::0"),
		fakekubelet.Pod("photos", "b", "main", "nvidia.com/gpu", "GPU-1::1"),
		fakekubelet.Pod("photos", "alone", "main", "nvidia.com/gpu", "GPU-2"))
	s.Start(t)
	proc := tree(t, 42, "0::/kubepods.slice/kubepods-pod"+strings.ReplaceAll(uid, "-", "_")+".slice/cri-containerd-"+id+".scope\n", "")
	logs := t.TempDir()
	r := resolver(t, Settings{Proc: proc, Socket: s.Socket, Logs: logs})
	require.Eventually(t, func() bool { return len(r.Allocations()) == 3 }, 10*time.Second, 5*time.Millisecond)
	o := r.Owner(42, "GPU-1")
	assert.Empty(t, o.Pod, "which of two pods it belongs to is unknown")
	o = r.Owner(42, "GPU-2")
	assert.Equal(t, "alone", o.Pod, "a GPU that one pod holds identifies it")
	assert.Equal(t, "main", o.Container)

	require.NoError(t, os.MkdirAll(filepath.Join(logs, "pods", "photos_b_"+uid), 0o750))
	require.Eventually(t, func() bool { return r.Owner(42, "GPU-1").Pod == "b" }, 10*time.Second, 50*time.Millisecond)
	assert.Equal(t, "main", r.Owner(42, "GPU-1").Container, "the pod's one container that holds the GPU")
}

func TestReusedPIDIsAnotherProcess(t *testing.T) {
	root := tree(t, 42, "0::/docker/"+id+"\n", "")
	r := resolver(t, Settings{Proc: root})
	assert.Equal(t, id, r.Owner(42, "").ContainerID)
	stat := filepath.Join(root, "42", "stat")
	raw, err := os.ReadFile(stat)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(root, "42", "cgroup"), []byte("0::/docker/"+id2+"\n"), 0o600))
	assert.Equal(t, id, r.Owner(42, "").ContainerID, "a process is read once")
	require.NoError(t, os.WriteFile(stat, []byte(strings.Replace(string(raw), " 4711 ", " 4712 ", 1)), 0o600))
	assert.Equal(t, id2, r.Owner(42, "").ContainerID)
}

func TestTheProcessesUsedLastAreRemembered(t *testing.T) {
	c, now := newProcessCache(), time.Now()
	check := func() {
		for _, b := range c.Bounds() {
			require.LessOrEqual(t, b.Size, b.Max, b.Name)
		}
		require.Len(t, c.byPID, c.byUse.Len())
	}
	for pid := range maxCached * 2 {
		c.store(cached{pid: pid, used: now})
		c.store(cached{pid: 0, used: now}) // used again and again
		check()
	}
	assert.Len(t, c.byPID, maxCached)
	_, known := c.find(0)
	assert.True(t, known)
	_, known = c.find(1)
	assert.False(t, known, "it was not used for the longest time")
	for pid := range maxCached {
		c.store(cached{pid: 1e6 + pid, used: now.Add(forgetAfter + 1)})
		c.store(cached{pid: 1e6 + pid, used: now.Add(forgetAfter + 1)})
		check()
	}
	_, known = c.find(0)
	assert.False(t, known)
}

func TestTheKubeletsFoldersAndAnswersAreBounded(t *testing.T) {
	logs := t.TempDir()
	pods := filepath.Join(logs, "pods")
	require.NoError(t, os.Mkdir(pods, 0o750))
	for i := range maxNames + 10 {
		require.NoError(t, os.Mkdir(filepath.Join(pods, fmt.Sprintf("ns_pod_%d", i)), 0o750))
	}
	r := resolver(t, Settings{Logs: logs})
	r.pods.find(cgroupOwner{podUID: "none"}, time.Now())
	for _, b := range r.Bounds() {
		assert.LessOrEqual(t, b.Size, b.Max, b.Name)
	}
	assert.Len(t, r.pods.byUID, maxNames)
	assert.True(t, r.Omitted())

	all := make([]Allocation, MaxAllocations)
	require.NoError(t, omitted(&all))
	all = append(all, Allocation{}, Allocation{})
	require.ErrorContains(t, omitted(&all), "2 of them are omitted")
	assert.Len(t, all, MaxAllocations)
}

func TestMissingProcIsAnError(t *testing.T) {
	r := New(Settings{Proc: filepath.Join(t.TempDir(), "nowhere"), Now: time.Now})
	defer r.Close()
	require.Error(t, r.Check())
	assert.Equal(t, Owner{}, r.Owner(1, "GPU-1"))
}
