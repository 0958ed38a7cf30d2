// SPDX-License-Identifier: Apache-2.0

// Package owner finds the owner of a process: its container by the cgroup, and the pod
// by the kubelet. It asks no server but the kubelet's socket on this machine.
package owner

// Owner is the owner of a process. What is unknown is empty.
type Owner struct {
	// Executable is the name of the executable, or the command's where the
	// executable may not be read.
	Executable string
	// ContainerID is the runtime's, 64 hexadecimal digits.
	ContainerID string
	// Namespace, Pod and Container are Kubernetes' names.
	Namespace, Pod, Container string
}
