// SPDX-License-Identifier: Apache-2.0

// Package owner tells whose a process is: its container from the cgroup, and the
// pod from the kubelet. Nothing in it waits on the network or asks a server
// other than the kubelet's socket on this machine.
package owner

// Owner is whose a process is. What is not known is empty.
type Owner struct {
	// Executable is the name of the executable, or the command's where the
	// executable may not be read.
	Executable string
	// ContainerID is the runtime's, 64 hexadecimal digits.
	ContainerID string
	// Namespace, Pod and Container are Kubernetes' names.
	Namespace, Pod, Container string
}
