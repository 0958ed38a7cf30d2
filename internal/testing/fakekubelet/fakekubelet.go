// SPDX-License-Identifier: Apache-2.0

// Package fakekubelet is a kubelet for tests: a real gRPC server that speaks the
// PodResources API (v1) on a socket.
package fakekubelet

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"google.golang.org/grpc"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"
)

// Server answers List with what it was given.
type Server struct {
	podresources.UnimplementedPodResourcesListerServer
	// Socket is where it listens once started.
	Socket string

	mu   sync.Mutex
	pods []*podresources.PodResources
	err  error
}

// New makes a server that does not listen yet. Its socket has a short path: the
// kernel allows 108 bytes.
func New(t testing.TB, pods ...*podresources.PodResources) *Server {
	t.Helper()
	dir, err := os.MkdirTemp("", "kubelet-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return &Server{Socket: filepath.Join(dir, "kubelet.sock"), pods: pods}
}

// Start listens until the test ends.
func (s *Server) Start(t testing.TB) *Server {
	t.Helper()
	listener, err := net.Listen("unix", s.Socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	podresources.RegisterPodResourcesListerServer(server, s)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() {
		server.Stop()
		<-done
	})
	return s
}

// Set replaces the pods.
func (s *Server) Set(pods ...*podresources.PodResources) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pods, s.err = pods, nil
}

// Fail makes every question fail, until the pods are set.
func (s *Server) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// List is the API's.
func (s *Server) List(context.Context, *podresources.ListPodResourcesRequest) (*podresources.ListPodResourcesResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &podresources.ListPodResourcesResponse{PodResources: s.pods}, s.err
}

// Pod is a pod of one container that holds devices of one resource.
func Pod(namespace, name, container, resource string, devices ...string) *podresources.PodResources {
	return &podresources.PodResources{Namespace: namespace, Name: name, Containers: []*podresources.ContainerResources{{
		Name: container, Devices: []*podresources.ContainerDevices{{ResourceName: resource, DeviceIds: devices}},
	}}}
}
