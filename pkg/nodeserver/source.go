package nodeserver

import (
	"context"
	"fmt"
	"os"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/csi-hostpath/csi-hostpath/pkg/capability"
	"github.com/csi-hostpath/csi-hostpath/pkg/hostpath"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/quantity"
	"github.com/csi-hostpath/csi-hostpath/pkg/staging"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// wish is a publish request as typed values.
type wish struct {
	handle     string // the volume ID; for an inline volume and a path of the host, any string
	staging    string // where the volume was staged, not parsed yet
	target     mount.Target
	access     capability.Access
	attributes volume.Attributes
}

func parseWish(target mount.Target, req *csi.NodePublishVolumeRequest) (wish, error) {
	if err := volume.CheckHandle(req.GetVolumeId()); err != nil {
		return wish{}, err
	}
	access, err := capability.Parse(req.GetVolumeCapability())
	if err != nil {
		return wish{}, err
	}
	if req.GetReadonly() {
		access.Mount = access.Mount.AsReadOnly()
	}
	attributes, err := volume.ParseAttributes(req.GetVolumeContext(), quantity.Parse)
	if err != nil {
		return wish{}, fmt.Errorf("volume_context: %w", err)
	}
	w := wish{
		handle:     req.GetVolumeId(),
		staging:    req.GetStagingTargetPath(),
		target:     target,
		access:     access,
		attributes: attributes,
	}
	return w, w.check(target)
}

// check keeps apart what a request could mix up. Everything that depends on whose pod it is, an
// inline volume and a path of the host, needs to know that from kubelet: its own attributes are
// told from a user's by the pod's UID in the target path. Errors: ErrInvalid, ErrForbidden.
func (w wish) check(target mount.Target) error {
	managed := w.attributes.Path == "" && !w.attributes.Inline
	switch {
	case !managed && w.access.Type != volume.AccessType{}:
		return fmt.Errorf("%w: a volume with a path of the host, or in a pod, is not %s",
			volume.ErrInvalid, w.access.Type)
	case !managed && volume.IsID(w.handle):
		return fmt.Errorf(
			"%w: %q is the ID of a volume in a pool: a volume with a path of the host, or in a pod, has another one",
			volume.ErrInvalid,
			w.handle,
		)
	case !managed && (w.attributes.Pod.UID == "" || w.attributes.Pod.UID != target.PodUID()):
		return fmt.Errorf(
			"%w: the pod's UID is %q, and the target path is one of %q: only kubelet can say whose volume it is, "+
				"and it does if the CSIDriver object has podInfoOnMount: true",
			volume.ErrForbidden,
			w.attributes.Pod.UID,
			target.PodUID(),
		)
	case w.attributes.Spec.Type.IsDevice() && w.access.Mount.ReadOnly():
		return fmt.Errorf(
			"%w: a device of the node is written to also through a mount that is read-only: ask for it without readOnly",
			volume.ErrInvalid,
		)
	case !w.attributes.Inline && volume.IsInlineHandle(w.handle):
		return fmt.Errorf(
			"%w: volume %s is an inline one, and kubelet does not say so: the CSIDriver object needs podInfoOnMount: true",
			volume.ErrForbidden,
			w.handle,
		)
	default:
		return w.attributes.CheckReference(w.handle)
	}
}

// source is what becomes visible at a target. Who gets one closes it.
type source struct {
	volume string // the volume's ID, as Publications have it
	file   *os.File
	access capability.Access
	// isReference: it is a path of the host, at which another file may stand by now than the one
	// that the target shows. The pod goes on with that one, as with hostPath; kubelet asks for
	// every volume again after its own restart.
	isReference bool
	// nodes are those of all devices of a raw block volume: at another target it may be another one
	// that shows it.
	nodes []*os.File
}

func (s source) close() {
	for _, f := range append(s.nodes, s.file) {
		f.Close()
	}
}

// views are what shows the volume where it is published.
func (s source) views() []*os.File { return append([]*os.File{s.file}, s.nodes...) }

// group is who is to be able to write: nobody new where the pod itself cannot, which is what
// kubelet does too (supportsFSGroup of Kubernetes pkg/volume/csi/csi_mounter.go).
func (s source) group() volume.Group {
	if s.access.Mount.ReadOnly() {
		return volume.Group{}
	}
	return s.access.Group
}

// open finds what a pod wants: a volume of a pool, a path of the host, or a volume of its own.
func (s *Server) open(ctx context.Context, w wish) (source, error) {
	switch {
	case w.attributes.Path != "":
		return s.openHostPath(w)
	case w.attributes.Inline:
		return s.openInline(ctx, w)
	default:
		return s.openManaged(ctx, w)
	}
}

func (s *Server) openManaged(ctx context.Context, w wish) (source, error) {
	v, err := s.managed(w.handle, w.access)
	if err != nil {
		return source{}, err
	}
	src := source{volume: v.ID.String(), access: w.access}
	switch {
	case w.staging == "":
		return source{}, fmt.Errorf("%w: staging_target_path is empty: stage the volume first",
			volume.ErrPrecondition)
	case v.Spec.IsBlock():
		return s.openBlock(ctx, v, w)
	case v.Spec.IsImage():
		src.file, err = s.openStaged(v, w.staging)
	default:
		src.file, err = v.Pool.Data(v.ID)
	}
	return src, err
}

// managed finds a volume of a pool that can be used like that.
func (s *Server) managed(handle string, access capability.Access) (staging.Volume, error) {
	id, err := volume.ParseID(handle)
	if err != nil {
		return staging.Volume{}, err
	}
	p, err := s.Pools.ByID(id.Pool())
	if err != nil {
		return staging.Volume{}, fmt.Errorf("volume %s: %w", id, err)
	}
	if err := capability.CheckNodes(p, access); err != nil {
		return staging.Volume{}, err
	}
	v, err := p.Get(id)
	if err == nil {
		err = v.Spec.CheckAccess(access.Type)
	}
	return staging.Volume{Volume: v, Pool: p}, err
}

// openHostPath applies the operator's rules. A mount of a host path shows what is mounted below it
// too, as hostPath does; several nodes may have the same path, so every access mode is right. Its
// files are the node's: a pod's fsGroup changes none, as with hostPath.
func (s *Server) openHostPath(w wish) (source, error) {
	opened, err := s.Host.Open(hostpath.Use{
		Path:      w.attributes.Path,
		Type:      w.attributes.Spec.Type,
		Namespace: w.attributes.Pod.Namespace,
		Inline:    w.attributes.Inline,
	}, w.attributes.Spec)
	if err != nil {
		return source{}, err
	}
	w.access.Group = volume.Group{}
	w.access.Mount = w.access.Mount.Recursive()
	if opened.ReadOnly {
		w.access.Mount = w.access.Mount.AsReadOnly()
	}
	if w.attributes.Spec.Type.IsDevice() {
		w.access.Mount = w.access.Mount.WithDevices()
	}
	return source{volume: w.handle, file: opened.File, access: w.access, isReference: true}, nil
}
