package nodeserver

import (
	"context"
	"fmt"
	"os"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/csi-hostpath/csi-hostpath/pkg/capability"
	"github.com/csi-hostpath/csi-hostpath/pkg/hostpath"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/quantity"
	"github.com/csi-hostpath/csi-hostpath/pkg/staging"
	"github.com/csi-hostpath/csi-hostpath/pkg/stuck"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// publishRequest is a NodePublishVolumeRequest as typed values.
type publishRequest struct {
	handle  string       // the volume ID; for an inline volume and a path of the host, any string
	staging mount.Target // where the volume was staged; zero if the request does not say
	target  mount.Target
	access  capability.Access
	// readOnly is the request's own field. The access is read-only for other reasons, too.
	readOnly   bool
	attributes volume.Attributes
	secret     map[string]string
}

func (s *Server) parsePublish(req *csi.NodePublishVolumeRequest) (r publishRequest, err error) {
	r.handle = req.GetVolumeId()
	if r.target, err = s.parseTarget("target_path", req.GetTargetPath()); err != nil {
		return r, err
	}
	if err := volume.CheckHandle(r.handle); err != nil {
		return r, err
	}
	if r.access, err = capability.Parse(req.GetVolumeCapability()); err != nil {
		return r, err
	}
	if r.readOnly = req.GetReadonly(); r.readOnly {
		r.access.Mount = r.access.Mount.AsReadOnly()
	}
	if r.attributes, err = volume.ParseAttributes(req.GetVolumeContext(), quantity.Parse); err != nil {
		return r, fmt.Errorf("volume_context: %w", err)
	}
	r.secret = req.GetSecrets()
	if path := req.GetStagingTargetPath(); path != "" {
		if r.staging, err = s.parseTarget("staging_target_path", path); err != nil {
			return r, err
		}
	}
	return r, r.check()
}

// check keeps apart what a request could mix up. Everything that depends on whose pod it is, an
// inline volume and a path of the host, needs to know that from kubelet: its own attributes are
// told from a user's by the pod's UID in the target path. Errors: ErrInvalid, ErrForbidden.
func (r publishRequest) check() error {
	managed := !r.attributes.IsReference() && !r.attributes.Inline
	switch {
	case !managed && r.access.Type != volume.AccessType{}:
		return fmt.Errorf("%w: a volume with a path of the host, or in a pod, is not %s",
			volume.ErrInvalid, r.access.Type)
	case !managed && volume.IsID(r.handle):
		return fmt.Errorf(
			"%w: %q is the ID of a volume in a pool: a volume with a path of the host, or in a pod, has another one",
			volume.ErrInvalid,
			r.handle,
		)
	case !managed && (r.attributes.Pod.UID == "" || r.attributes.Pod.UID != r.target.PodUID()):
		return fmt.Errorf(
			"%w: the pod's UID is %q, and the target path is one of %q: only kubelet can say whose volume it is, "+
				"and it does if the CSIDriver object has podInfoOnMount: true",
			volume.ErrForbidden,
			r.attributes.Pod.UID,
			r.target.PodUID(),
		)
	case r.attributes.Spec.Type.IsDevice() && r.access.Mount.ReadOnly():
		return fmt.Errorf(
			"%w: a device of the node is written to also through a mount that is read-only: ask for it without readOnly",
			volume.ErrInvalid,
		)
	case !r.attributes.Inline && volume.IsInlineHandle(r.handle):
		return fmt.Errorf(
			"%w: volume %s is an inline one, and kubelet does not say so: the CSIDriver object needs podInfoOnMount: true",
			volume.ErrForbidden,
			r.handle,
		)
	default:
		return r.attributes.CheckReference(r.handle)
	}
}

// podName is the name of the pod, if it is kubelet who says it (volume.Pod).
func (r publishRequest) podName() podName {
	pod := r.attributes.Pod
	if pod.UID == "" || pod.UID != r.target.PodUID() {
		return podName{}
	}
	return podName{pod.Namespace, pod.Name}
}

// mountSource is what becomes visible at a target. Who gets one closes it.
type mountSource struct {
	volume string // the volume's ID, as Publications have it
	file   *os.File
	access capability.Access
	// shown is what the target of a path of the host shows already. At the path another file may
	// stand by now. The pod goes on with the one that the target shows, as with hostPath, unless
	// its filesystem is dead; kubelet asks for every volume again after its own restart.
	shown shown
	// nodes are those of all devices of a raw block volume: at another target it may be another one
	// that shows it.
	nodes []*os.File
	// managed is the volume of a pool that a group may be given; nil for a path of the host and for a
	// raw block volume.
	managed *pool.Volume
	// block is a raw block volume, whose devices are released if the publication fails.
	block *staging.Volume
	// report says what the pod has to know although it has its volume; nil: nothing.
	report func() error
	pod    podName // for people
}

// shown is what a target shows before a path of the host is published there.
type shown int

const (
	showsNothing shown = iota // or what Publications do not know: mount.Bind looks
	showsLive                 // the volume
	showsDead                 // the volume as it was: the server of its filesystem has gone
)

func (s mountSource) close() {
	for _, f := range append(s.nodes, s.file) {
		f.Close()
	}
}

// views are what shows the volume where it is published.
func (s mountSource) views() []*os.File { return append([]*os.File{s.file}, s.nodes...) }

// group is who is to be able to write: nobody new where the pod itself cannot, which is what
// kubelet does too (supportsFSGroup of Kubernetes pkg/volume/csi/csi_mounter.go).
func (s mountSource) group() volume.Group {
	if s.access.Mount.ReadOnly() {
		return volume.Group{}
	}
	return s.access.Group
}

// open finds what a pod wants: a volume of a pool, a path of the host, or a volume of its own.
func (s *Server) open(ctx context.Context, r publishRequest) (mountSource, error) {
	switch {
	case !r.attributes.Git.IsNone():
		return s.openGit(ctx, r)
	case r.attributes.Path != "":
		return s.openHostPath(ctx, r)
	case r.attributes.Inline:
		return s.openInline(ctx, r)
	default:
		return s.openManaged(ctx, r)
	}
}

func (s *Server) openManaged(ctx context.Context, r publishRequest) (mountSource, error) {
	v, err := s.managed(r.handle, r.access)
	if err != nil {
		return mountSource{}, err
	}
	src := mountSource{volume: v.ID.String(), access: r.access, managed: &v.Volume}
	switch {
	case r.staging == mount.Target{}:
		return mountSource{}, fmt.Errorf("%w: staging_target_path is empty: stage the volume first",
			volume.ErrPrecondition)
	case v.Spec.IsBlock():
		return s.openBlock(ctx, v, r)
	case v.Spec.IsImage():
		src.file, err = v.Open(r.staging)
	default:
		src.file, err = v.Data()
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
	if err == nil && v.IsGitContent() {
		err = fmt.Errorf("%w: volume %s has content of git: ask for that by its URL",
			volume.ErrInvalid, id)
	}
	return staging.Volume{Volume: v}, err
}

// openHostPath opens a path of the host and looks at the target. It asks filesystems that may not
// answer: while one of them hangs, the volume can be unpublished. Errors: ErrUnresponsive.
func (s *Server) openHostPath(ctx context.Context, r publishRequest) (mountSource, error) {
	was, _ := s.Publications.at(r.target)
	q := stuck.Question{Key: s.Host.Lane(r.attributes.Path), Path: r.attributes.Path}
	return stuck.Do(ctx, s.asking, q, func() (mountSource, error) {
		src, err := s.findHostPath(r)
		if err != nil {
			return mountSource{}, err
		}
		err = mount.CheckWritable(src.file, src.access.Mount)
		if err == nil && was == r.handle {
			src.shown, err = lookAt(r.target, src.access.Mount)
		}
		if err != nil {
			src.close()
			return mountSource{}, err
		}
		return src, nil
	}, mountSource.close)
}

// lookAt says what a target shows at which a path of the host was published. Errors:
// ErrIncompatible.
func lookAt(target mount.Target, options mount.Options) (shown, error) {
	mounted, err := mount.IsMountedWith(target, options)
	switch {
	case openat.IsOfDeadFilesystem(err):
		return showsDead, nil
	case err != nil || !mounted:
		return showsNothing, err
	default:
		return showsLive, nil
	}
}

// findHostPath applies the operator's rules. A mount of a host path shows what is mounted below it
// too, as hostPath does; several nodes may have the same path, so every access mode is right. Its
// files are the node's: a pod's fsGroup changes none, as with hostPath.
func (s *Server) findHostPath(r publishRequest) (mountSource, error) {
	f, err := s.Host.Open(hostpath.Use{
		Path:      r.attributes.Path,
		Type:      r.attributes.Spec.Type,
		Namespace: r.attributes.Pod.Namespace,
		Inline:    r.attributes.Inline,
		ReadOnly:  r.readOnly,
	}, r.attributes.Spec)
	if err != nil {
		return mountSource{}, err
	}
	r.access.Group = volume.Group{}
	r.access.Mount = r.access.Mount.Recursive()
	if r.attributes.Spec.Type.IsDevice() {
		r.access.Mount = r.access.Mount.WithDevices()
	}
	return mountSource{volume: r.handle, file: f, access: r.access}, nil
}
