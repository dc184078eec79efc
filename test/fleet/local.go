package main

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
)

// local calls a node's service without a connection.
type local struct{ server csi.ControllerServer }

func (l local) CreateVolume(
	ctx context.Context, req *csi.CreateVolumeRequest, _ ...grpc.CallOption,
) (*csi.CreateVolumeResponse, error) {
	return l.server.CreateVolume(ctx, req)
}

// creator is what makes volumes.
type creator interface {
	CreateVolume(
		ctx context.Context, req *csi.CreateVolumeRequest, opts ...grpc.CallOption,
	) (*csi.CreateVolumeResponse, error)
}

// serial numbers volumes: no name is used twice.
var serial atomic.Int64

// volumeName has the length of the names that csi-provisioner gives.
func volumeName() string { return fmt.Sprintf("pvc-b3a1e5c0-0000-4000-8000-%012x", serial.Add(1)) }
