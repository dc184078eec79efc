package nodeserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/health"
	"github.com/csi-hostpath/csi-hostpath/pkg/image"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/staging"
	"github.com/csi-hostpath/csi-hostpath/pkg/stuck"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	// healthPatience is how long a question about a volume's health waits for a filesystem. kubelet
	// asks for one volume after the other (pkg/kubelet/volumemanager/volumehealth of v1.37).
	healthPatience = 2 * time.Second
	// maxLookedAt bounds the targets that one call looks at.
	maxLookedAt = 16
)

// placesOf are the places of a volume that a health call names. Zero is not named.
type placesOf struct{ target, staging mount.Target }

func (s *Server) parsePlaces(req *csi.NodeGetVolumeHealthRequest) (at placesOf, err error) {
	if path := req.GetVolumePublishPath(); path != "" {
		if at.target, err = s.parseTarget("volume_publish_path", path); err != nil {
			return placesOf{}, err
		}
	}
	if path := req.GetStagingTargetPath(); path != "" {
		at.staging, err = s.parseTarget("staging_target_path", path)
	}
	return at, err
}

// NodeGetVolumeHealth says what is wrong with a volume, as far as the driver knows, and what the
// kernel says of its mounts. A pool that cannot be used is an answer, not an error: after an error
// kubelet keeps the conditions that the pod had before. Errors: ErrNotFound; ErrUnavailable while
// the driver opens the pool.
func (s *Server) NodeGetVolumeHealth(
	ctx context.Context, req *csi.NodeGetVolumeHealthRequest,
) (*csi.NodeGetVolumeHealthResponse, error) {
	handle := req.GetVolumeId()
	if err := volume.CheckHandle(handle); err != nil {
		return nil, err
	}
	at, err := s.parsePlaces(req)
	if err != nil {
		return nil, err
	}
	conditions, err := s.conditionsOf(ctx, handle, at)
	if err != nil {
		return nil, err
	}
	return &csi.NodeGetVolumeHealthResponse{VolumeHealth: health.Message(handle, conditions)}, nil
}

func (s *Server) conditionsOf(
	ctx context.Context, handle string, at placesOf,
) ([]health.Condition, error) {
	if !volume.IsID(handle) {
		faults, err := s.faultsOfReference(ctx, handle, at)
		return append(health.Of(faults), s.gitConditions(handle, at)...), err
	}
	id, err := volume.ParseID(handle)
	if err != nil {
		return nil, err
	}
	candidates, err := s.Pools.Candidates(id.Pool())
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", id, err)
	}
	var conditions []health.Condition
	for _, p := range candidates {
		conditions = append(conditions, p.Conditions()...)
		if p.Pool == nil {
			continue
		}
		faults, err := s.faultsOf(ctx, p, id, at)
		if err != nil {
			return nil, err
		}
		conditions = append(conditions, health.Of(faults)...)
	}
	return conditions, nil
}

// faultsOf looks at the mounts only if the pool can be used: whatever they say, the pool's own
// condition says more.
func (s *Server) faultsOf(
	ctx context.Context, p health.Pool, id volume.ID, at placesOf,
) ([]volume.Fault, error) {
	faults, err := p.Pool.Faults(id)
	if err != nil || p.Reason != "" {
		return faults, err
	}
	v, err := p.Pool.Get(id)
	if err != nil { // its record is damaged, which is among the faults
		return faults, nil //nolint:nilerr // said above
	}
	q := stuck.Question{Key: id.String(), Path: "volume " + id.String()}
	found, err := stuck.Do(ctx, s.askingHealth, q, func() ([]volume.Fault, error) {
		defer s.Pools.Use()() // nobody may wait for the answer any more
		return s.faultsOfMounts(v, at)
	}, nil)
	if errors.Is(err, volume.ErrUnresponsive) && ctx.Err() == nil {
		return append(faults, volume.FaultHangs), nil
	}
	return append(faults, found...), err
}

// targetsOf are the places where a volume should be seen: the one that is named, else those that
// are known.
func (s *Server) targetsOf(id string, at placesOf) []mount.Target {
	if at.target != (mount.Target{}) {
		return []mount.Target{at.target}
	}
	targets := s.Publications.Targets(id)
	return targets[:min(len(targets), maxLookedAt)]
}

func (s *Server) faultsOfMounts(v pool.Volume, at placesOf) ([]volume.Fault, error) {
	look, done, err := s.lookerFor(v)
	if err != nil {
		return faultOfError(err)
	}
	defer done()
	var faults []volume.Fault
	for _, t := range s.targetsOf(v.ID.String(), at) {
		found, err := look(t)
		if err == nil && found == "" {
			continue
		}
		if err != nil {
			more, err := faultOfError(err)
			if err != nil {
				return nil, err
			}
			found = more[0]
		}
		faults = append(faults, found)
	}
	if v.Spec.IsImage() && !v.Spec.IsBlock() && at.staging != (mount.Target{}) {
		found, err := faultsOfStaged(staging.Volume{Volume: v}, at.staging)
		return append(faults, found...), err
	}
	return faults, nil
}

// faultOfError is the fault of which an error tells. Errors: those that tell of none.
func faultOfError(err error) ([]volume.Fault, error) {
	switch {
	case errors.Is(err, volume.ErrCorrupt):
		return []volume.Fault{volume.FaultDataMissing}, nil
	case openat.IsOfDeadFilesystem(err):
		return []volume.Fault{volume.FaultFilesystemFailed}, nil
	default:
		return nil, err
	}
}

// lookerFor returns what says whether a target shows the volume; empty: it does.
func (*Server) lookerFor(
	v pool.Volume,
) (look func(mount.Target) (volume.Fault, error), done func(), err error) {
	staged := staging.Volume{Volume: v}
	switch {
	case v.Spec.IsBlock():
		return func(t mount.Target) (volume.Fault, error) {
			if len(image.NodesAt(t)) > 0 {
				return "", nil
			}
			return insteadAt(t)
		}, func() {}, nil
	case v.Spec.IsImage():
		return func(t mount.Target) (volume.Fault, error) { return imageAt(staged, t) }, func() {}, nil
	}
	data, err := v.Data()
	if err != nil {
		return nil, nil, err
	}
	return func(t mount.Target) (volume.Fault, error) {
		shown, err := mount.Shows(t, data)
		if err != nil || shown {
			return "", err
		}
		return insteadAt(t)
	}, func() { data.Close() }, nil
}

// insteadAt says what a target shows instead of the volume.
func insteadAt(t mount.Target) (volume.Fault, error) {
	mounted, err := mount.Mounted(t)
	switch {
	case err != nil:
		return "", err
	case mounted:
		return volume.FaultCovered, nil
	default:
		return volume.FaultNotMounted, nil
	}
}

func imageAt(v staging.Volume, t mount.Target) (volume.Fault, error) {
	f, mounted, err := mount.Open(t)
	if errors.Is(err, os.ErrNotExist) {
		return volume.FaultNotMounted, nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	if mounted && v.IsOn(f) {
		return "", nil
	}
	return insteadAt(t)
}

// faultsOfStaged looks at the filesystem of an image. At its staging path it is mounted read-write,
// so what is read-only there is the filesystem, not the mount.
func faultsOfStaged(v staging.Volume, at mount.Target) ([]volume.Fault, error) {
	f, mounted, err := mount.Open(at)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return faultOfError(err)
	}
	defer f.Close()
	if !mounted || !v.IsOn(f) {
		return nil, nil
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return faultOfError(&os.PathError{Op: "statfs", Path: at.String(), Err: err})
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		return []volume.Fault{volume.FaultReadOnly}, nil
	}
	return nil, nil
}

// faultsOfReference looks at a path of the host, or at an inline volume, where it is published. It
// asks the filesystem there, which may be one of FUSE or NFS. Errors: ErrNotFound when the volume
// is published nowhere.
func (s *Server) faultsOfReference(
	ctx context.Context, handle string, at placesOf,
) (faults []volume.Fault, err error) {
	known := s.targetsOf(handle, placesOf{})
	if published, ok := s.Publications.at(at.target); ok && s.isHandleOf(handle, published) {
		known = append(known, at.target)
	}
	if len(known) == 0 && !volume.IsReferenceID(handle) {
		return nil, fmt.Errorf("%w: volume %s is published nowhere on this node", volume.ErrNotFound,
			handle)
	}
	if at.target != (mount.Target{}) {
		known = []mount.Target{at.target}
	}
	for _, t := range known {
		q := stuck.Question{Key: "usage of " + mount.FilesystemAt(t), Path: t.String()}
		_, err := stuck.Do(ctx, s.askingHealth, q, func() (volume.Usage, error) {
			return mount.Usage(t)
		}, nil)
		switch {
		case err == nil:
		case errors.Is(err, volume.ErrNotFound):
			faults = append(faults, volume.FaultNotMounted)
		case errors.Is(err, volume.ErrUnresponsive) && ctx.Err() == nil:
			faults = append(faults, volume.FaultHangs)
		default:
			found, err := faultOfError(err)
			if err != nil {
				return nil, err
			}
			faults = append(faults, found...)
		}
	}
	return faults, nil
}

// NodeGetStorageHealth says which pools of the node cannot be used, and what keeps the node from
// having volumes.
func (s *Server) NodeGetStorageHealth(
	context.Context, *csi.NodeGetStorageHealthRequest,
) (*csi.NodeGetStorageHealthResponse, error) {
	var node []volume.Reason
	if s.NodeReasons != nil {
		node = s.NodeReasons()
	}
	return &csi.NodeGetStorageHealthResponse{BackendHealth: health.Storage(s.Pools.Known(), node)}, nil
}
