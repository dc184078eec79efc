package nodeserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

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

// inlinePool is what deleting an inline volume takes.
type inlinePool interface {
	AnyData(id volume.ID) (*os.File, error)
	Delete(ctx context.Context, id volume.ID) error
}

var _ inlinePool = (*pool.Pool)(nil)

// SweepInline deletes the inline volumes whose pods are gone: what a crash between a pod's end and its unpublish left. A pod that
// kubelet still knows has a directory, also after a reboot, and its volumes are kept for it.
func (s *Server) SweepInline(ctx context.Context) {
	for _, p := range s.Pools.Open() {
		for _, v := range p.Inline() {
			if err := s.sweep(ctx, p, v); err != nil {
				klog.FromContext(ctx).Error(err, "An inline volume whose pod seems gone is kept; it is looked at again", "volumeID", v.ID)
			}
		}
	}
}

func (s *Server) sweep(ctx context.Context, p inlinePool, v volume.Volume) error {
	exists, err := podExists(s.KubeletDir, v.Owner.PodUID)
	if exists || err != nil {
		return err
	}
	klog.FromContext(ctx).Info("Deleting an inline volume whose pod is gone", "volumeID", v.ID,
		"namespace", v.Owner.Namespace, "pod", v.Owner.Pod, "podUID", v.Owner.PodUID)
	return s.deleteUnused(ctx, p, v.ID)
}

var errPodsUnknown = fmt.Errorf("%w: kubelet's directory has no pods: is its disk mounted?", volume.ErrUnavailable)

// podExists looks for the directory that kubelet keeps for a pod as long as it has anything of it. Any doubt keeps the volume: a
// directory without a single pod is what stands there while kubelet's disk is not mounted, for the driver's own pod has one too.
func podExists(kubeletDir, uid string) (bool, error) {
	pods, err := os.OpenRoot(filepath.Join(kubeletDir, "pods"))
	if err != nil {
		return false, err
	}
	defer pods.Close()
	_, err = pods.Lstat(uid)
	if !errors.Is(err, os.ErrNotExist) {
		return err == nil, err
	}
	all, err := pods.Open(".")
	if err != nil {
		return false, err
	}
	defer all.Close()
	if _, err := all.Readdirnames(1); errors.Is(err, io.EOF) {
		return false, errPodsUnknown
	}
	return false, nil
}
