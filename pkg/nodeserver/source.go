package nodeserver

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/capability"
	"github.com/csi-hostpath/csi-hostpath/pkg/hostpath"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/quantity"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// wish is a publish request as typed values.
type wish struct {
	handle     string // the volume ID; for an inline volume and a path of the host, any string
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
	w := wish{handle: req.GetVolumeId(), access: access, attributes: attributes}
	return w, w.check(target)
}

// check keeps apart what a request could mix up. Everything that depends on whose pod it is, an inline volume and a path of the host,
// needs to know that from kubelet: its own attributes are told from a user's by the pod's UID in the target path. Errors: ErrInvalid,
// ErrForbidden.
func (w wish) check(target mount.Target) error {
	managed := w.attributes.Path == "" && !w.attributes.Inline
	switch {
	case !managed && volume.IsID(w.handle):
		return fmt.Errorf("%w: %q is the ID of a volume in a pool: a volume with a path of the host, or in a pod, has another one",
			volume.ErrInvalid, w.handle)
	case !managed && (w.attributes.Pod.UID == "" || w.attributes.Pod.UID != target.PodUID()):
		return fmt.Errorf("%w: the pod's UID is %q, and the target path is one of %q: only kubelet can say whose volume it is, "+
			"and it does if the CSIDriver object has podInfoOnMount: true", volume.ErrForbidden, w.attributes.Pod.UID, target.PodUID())
	case !w.attributes.Inline && volume.IsInlineHandle(w.handle):
		return fmt.Errorf("%w: volume %s is an inline one, and kubelet does not say so: the CSIDriver object needs podInfoOnMount: true",
			volume.ErrForbidden, w.handle)
	default:
		return nil
	}
}

// source is what becomes visible at a target. Who gets one closes the file.
type source struct {
	volume string // the volume's ID, as Publications have it
	file   *os.File
	access capability.Access
}

// open finds what a pod wants: a volume of a pool, a path of the host, or a volume of its own.
func (s *Server) open(ctx context.Context, w wish) (source, error) {
	switch {
	case w.attributes.Path != "":
		return s.openHostPath(w)
	case w.attributes.Inline:
		return s.openInline(ctx, w)
	default:
		return s.openManaged(w.handle, w.access)
	}
}

func (s *Server) openManaged(handle string, access capability.Access) (source, error) {
	id, err := volume.ParseID(handle)
	if err != nil {
		return source{}, err
	}
	p, err := s.Pools.ByID(id.Pool())
	if err != nil {
		return source{}, fmt.Errorf("volume %s: %w", id, err)
	}
	if err := capability.CheckNodes(p, access); err != nil {
		return source{}, err
	}
	data, err := p.Data(id)
	return source{volume: id.String(), file: data, access: access}, err
}

// openHostPath applies the operator's rules. A mount of a host path shows what is mounted below it too, as hostPath does; several
// nodes may have the same path, so every access mode is right.
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
	w.access.Mount = w.access.Mount.Recursive()
	if opened.ReadOnly {
		w.access.Mount = w.access.Mount.AsReadOnly()
	}
	if w.attributes.Spec.Type.IsDevice() {
		w.access.Mount = w.access.Mount.WithDevices()
	}
	return source{volume: w.handle, file: opened.File, access: w.access}, nil
}

// openInline makes the pod's own volume, or finds it made by an earlier try.
func (s *Server) openInline(ctx context.Context, w wish) (source, error) {
	name, err := volume.ParseName(w.handle)
	if err != nil {
		return source{}, err
	}
	p, err := s.Pools.ByName(w.attributes.Pool)
	if err != nil {
		return source{}, err
	}
	v, err := p.Create(ctx, volume.CreateRequest{
		Name:  name,
		Size:  volume.SizeRange{Required: w.attributes.SizeBytes},
		Spec:  w.attributes.Spec,
		Owner: w.attributes.Owner,
	})
	if err != nil {
		return source{}, err
	}
	data, err := p.Data(v.ID)
	return source{volume: v.ID.String(), file: data, access: w.access}, err
}

// deleteInline deletes the inline volume of that handle; most handles have none. More than one pool has it if the default pool was
// another one when an earlier try made it. A pool that is not open keeps it until SweepInline finds it.
func (s *Server) deleteInline(ctx context.Context, handle string) error {
	name, err := volume.ParseName(handle)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range s.Pools.Open() {
		v, err := p.Get(volume.NewID(p.ID(), name))
		if err == nil && v.IsInline() {
			errs = append(errs, s.deleteUnused(ctx, p, v.ID))
		}
	}
	return errors.Join(errs...)
}

// deleteUnused keeps a volume that is visible somewhere. Errors: ErrInUse.
func (s *Server) deleteUnused(ctx context.Context, p inlinePool, id volume.ID) error {
	data, err := p.AnyData(id)
	if err == nil {
		defer data.Close()
		err = s.Publications.CheckUnused(id, data)
	}
	if err != nil && !errors.Is(err, volume.ErrNotFound) {
		return err
	}
	return p.Delete(ctx, id)
}

// SweepInline deletes the inline volumes whose pods are gone: what a crash between a pod's end and its unpublish left. A pod that
// kubelet still knows has a directory, also after a reboot, and its volumes are kept for it.
func (s *Server) SweepInline(ctx context.Context) {
	for _, p := range s.Pools.Open() {
		for _, v := range p.Inline() {
			if err := s.sweep(ctx, p, v); err != nil {
				klog.FromContext(ctx).Error(err, "An inline volume whose pod is gone could not be deleted; it is tried again", "volumeID", v.ID)
			}
		}
	}
}

// inlinePool is what deleting an inline volume takes.
type inlinePool interface {
	AnyData(id volume.ID) (*os.File, error)
	Delete(ctx context.Context, id volume.ID) error
}

var _ inlinePool = (*pool.Pool)(nil)

func (s *Server) sweep(ctx context.Context, p inlinePool, v volume.Volume) error {
	exists, err := podExists(s.KubeletDir, v.Owner.PodUID)
	if exists || err != nil {
		return err
	}
	klog.FromContext(ctx).Info("Deleting an inline volume whose pod is gone", "volumeID", v.ID,
		"namespace", v.Owner.Namespace, "pod", v.Owner.Pod, "podUID", v.Owner.PodUID)
	return s.deleteUnused(ctx, p, v.ID)
}

// podExists looks for the directory that kubelet keeps for a pod as long as it has anything of it. Any doubt keeps the volume.
func podExists(kubeletDir, uid string) (bool, error) {
	pods, err := os.OpenRoot(kubeletDir + "/pods")
	if err != nil {
		return false, err
	}
	defer pods.Close()
	_, err = pods.Lstat(uid)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
