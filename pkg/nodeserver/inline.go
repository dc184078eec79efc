package nodeserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// openInline makes the pod's own volume, or finds it made by an earlier try.
func (s *Server) openInline(ctx context.Context, r publishRequest) (mountSource, error) {
	name, err := volume.ParseName(r.handle)
	if err != nil {
		return mountSource{}, err
	}
	p, err := s.poolOf(name, r.attributes.Pool)
	if err != nil {
		return mountSource{}, err
	}
	made, err := p.Create(ctx, volume.CreateRequest{
		Name:  name,
		Size:  volume.SizeRange{Required: r.attributes.SizeBytes},
		Spec:  r.attributes.Spec,
		Owner: r.attributes.Owner,
	})
	if err != nil {
		return mountSource{}, err
	}
	v, err := p.Get(made.ID)
	if err != nil {
		return mountSource{}, err
	}
	data, err := v.Data()
	return mountSource{volume: v.ID.String(), file: data, access: r.access, managed: &v}, err
}

// poolOf is the pool that an inline volume is to be in: of one that names none the default pool,
// unless it was made when that was another one. kubelet asks for every volume again after its own
// restart, and its pod goes on with what it has.
func (s *Server) poolOf(name volume.Name, wanted string) (*pool.Pool, error) {
	if made := s.poolsWithInline(name); wanted == "" && len(made) > 0 {
		return made[0], nil
	}
	return s.Pools.ByName(wanted)
}

// poolsWithInline are the open pools that have an inline volume of that name.
func (s *Server) poolsWithInline(name volume.Name) []*pool.Pool {
	return slices.DeleteFunc(s.Pools.Open(), func(p *pool.Pool) bool {
		v, err := p.Get(volume.NewID(p.ID(), name))
		return err != nil || !v.IsInline()
	})
}

// deleteInline deletes the inline volume of that handle if the target was its pod's; most handles
// have none. More than one pool has it if the default pool was another one, and not open, when it
// was made. A pool that is not open keeps it until SweepInline finds it.
func (s *Server) deleteInline(ctx context.Context, handle string, target mount.Target) error {
	name, err := volume.ParseName(handle)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range s.poolsWithInline(name) {
		id := volume.NewID(p.ID(), name)
		if v, err := p.Get(id); err == nil && v.Owner.PodUID == target.PodUID() {
			errs = append(errs, s.deleteUnused(ctx, p, id))
		}
	}
	return errors.Join(errs...)
}

// deleteUnused keeps a volume that is visible somewhere. Errors: ErrInUse.
func (s *Server) deleteUnused(ctx context.Context, p inlinePool, id volume.ID) error {
	if err := p.StopSetGroup(ctx, id); err != nil {
		return err
	}
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
	StopSetGroup(ctx context.Context, id volume.ID) error
	Delete(ctx context.Context, id volume.ID) error
}

var _ inlinePool = (*pool.Pool)(nil)

// SweepInline deletes the inline volumes whose pods are gone: what a crash between a pod's end and
// its unpublish left. A pod that kubelet still knows has a directory, also after a reboot, and its
// volumes are kept for it. It deletes content of git that no pod shows any more, too.
func (s *Server) SweepInline(ctx context.Context) {
	s.Git.Sweep(ctx)
	for _, p := range s.Pools.Open() {
		for _, v := range p.Inline() {
			if err := s.sweep(ctx, p, v); err != nil {
				klog.FromContext(
					ctx,
				).Error(err, "An inline volume whose pod seems gone is kept; it is looked at again", "volumeID",
					v.ID)
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

var errPodsUnknown = fmt.Errorf("%w: kubelet's directory has no pods: is its disk mounted?",
	volume.ErrUnavailable)

// podExists looks for the directory that kubelet keeps for a pod as long as it has anything of it.
// Any doubt keeps the volume: a directory without a single pod is what stands there while kubelet's
// disk is not mounted, for the driver's own pod has one too.
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
