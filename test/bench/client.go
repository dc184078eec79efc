package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/csi-hostpath/csi-hostpath/test/process"
)

// sockets goes through cycles over the driver's socket.
type sockets struct {
	*process.Process
	// capability is what is asked of its volumes; nil is a directory of the pool's filesystem.
	capability *csi.VolumeCapability
	// class is what createSized has of a StorageClass.
	class map[string]string
}

// capable asks for other volumes.
func (s sockets) capable(capability *csi.VolumeCapability) sockets {
	s.capability = capability
	return s
}

func (s sockets) access() *csi.VolumeCapability {
	if s.capability == nil {
		return mounted("")
	}
	return s.capability
}

// newSockets makes what kubelet has made before it calls: directories for each client's pod and its
// staging.
func newSockets(p *process.Process, clients int) (sockets, error) {
	s := sockets{Process: p}
	for client := range clients {
		err := errors.Join(os.MkdirAll(filepath.Dir(s.target(client)), 0o750),
			os.MkdirAll(s.staging(client), 0o750))
		if err != nil {
			return s, err
		}
	}
	return s, nil
}

func (s sockets) target(client int) string {
	return filepath.Join(s.KubeletDir(), "pods",
		fmt.Sprintf("%08x-0000-4000-8000-000000000000", client), "volumes", "kubernetes.io~csi", "pv",
		"mount")
}

func (s sockets) staging(client int) string {
	return filepath.Join(s.KubeletDir(), "plugins", "kubernetes.io", "csi", "hostpath.csi.local",
		strconv.Itoa(client), "globalmount")
}

func (s sockets) cycle(ctx context.Context, client int, name string) (laps, error) {
	w := startWatch()
	id, err := s.create(ctx, name)
	if err != nil {
		return laps{}, err
	}
	w.lap(create)
	steps := []struct {
		step step
		do   func(context.Context, int, string) error
	}{
		{stage, s.stage},
		{publish, s.publish},
		{write, func(context.Context, int, string) error { return writeAsPod(s.target(client)) }},
		{stats, s.stats},
		{unpublish, s.unpublish},
		{unstage, s.unstage},
		{remove, func(context.Context, int, string) error { return s.remove(ctx, id) }},
	}
	for _, step := range steps {
		if err := step.do(ctx, client, id); err != nil {
			return laps{}, fmt.Errorf("%s %s: %w", step.step, name, err)
		}
		w.lap(step.step)
	}
	return w.laps, nil
}

// readWriteOnce is what Kubernetes sends for ReadWriteOnce to a driver with
// SINGLE_NODE_MULTI_WRITER.
var readWriteOnce = &csi.VolumeCapability_AccessMode{
	Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER,
}

// mounted asks for a filesystem: for an image if it has a type.
func mounted(fsType string) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Mount{
			Mount: &csi.VolumeCapability_MountVolume{FsType: fsType},
		},
		AccessMode: readWriteOnce,
	}
}

// rawBlock asks for a device.
func rawBlock() *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Block{
			Block: &csi.VolumeCapability_BlockVolume{},
		},
		AccessMode: readWriteOnce,
	}
}

func (s sockets) create(ctx context.Context, name string) (string, error) {
	return s.createKind(ctx, name, "DirectoryOrCreate")
}

// createKind makes a volume of a type. It asks for so little that capacity never ends before the
// disk does.
func (s sockets) createKind(ctx context.Context, name, kind string) (string, error) {
	resp, err := s.Controller.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name:               name,
		CapacityRange:      &csi.CapacityRange{RequiredBytes: 4096},
		VolumeCapabilities: []*csi.VolumeCapability{s.access()},
		Parameters: map[string]string{
			"csi.storage.k8s.io/pvc/name":      "data-books-0",
			"csi.storage.k8s.io/pvc/namespace": "library",
			"csi.storage.k8s.io/pv/name":       name,
			"type":                             kind,
		},
	})
	return resp.GetVolume().GetVolumeId(), err
}

func (s sockets) stage(ctx context.Context, client int, id string) error {
	_, err := s.Node.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
		VolumeId: id, StagingTargetPath: s.staging(client), VolumeCapability: s.access(),
	})
	return err
}

func (s sockets) publish(ctx context.Context, client int, id string) error {
	_, err := s.Node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId:          id,
		StagingTargetPath: s.staging(client),
		TargetPath:        s.target(client),
		VolumeCapability:  s.access(),
		VolumeContext: map[string]string{
			"csi.storage.k8s.io/pod.name":      "books-0",
			"csi.storage.k8s.io/pod.namespace": "library",
			"csi.storage.k8s.io/ephemeral":     "false",
		},
	})
	return err
}

func (s sockets) stats(ctx context.Context, client int, id string) error {
	_, err := s.Node.NodeGetVolumeStats(ctx,
		&csi.NodeGetVolumeStatsRequest{VolumeId: id, VolumePath: s.target(client)})
	return err
}

func (s sockets) unpublish(ctx context.Context, client int, id string) error {
	_, err := s.Node.NodeUnpublishVolume(ctx,
		&csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: s.target(client)})
	return err
}

func (s sockets) unstage(ctx context.Context, client int, id string) error {
	_, err := s.Node.NodeUnstageVolume(ctx,
		&csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: s.staging(client)})
	return err
}

func (s sockets) remove(ctx context.Context, id string) error {
	_, err := s.Controller.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id})
	return err
}
