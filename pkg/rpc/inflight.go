package rpc

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// lockSpace keeps volumes and paths of the same spelling apart.
type lockSpace string

const (
	volumeSpace   lockSpace = "volume"
	snapshotSpace lockSpace = "snapshot"
	pathSpace     lockSpace = "path"
)

// lockKey is what one call may hold at a time. A key without a name locks nothing.
type lockKey struct {
	space lockSpace
	name  string
}

// lockKeys are a call's volume and path.
type lockKeys [2]lockKey

// holder is the call that has a key.
type holder struct {
	method string
	since  time.Time
}

// inFlight gives each volume and each path to one changing call at a time. Nobody waits: the second
// call gets ABORTED (CSI spec, "Error Scheme", "Operation pending for volume"). One mutex is
// enough, it covers two map accesses and is never held while a handler runs.
type inFlight struct {
	conflicts *prometheus.CounterVec

	mu   sync.Mutex
	held map[lockKey]holder
}

func newInFlight(conflicts *prometheus.CounterVec) *inFlight {
	return &inFlight{conflicts: conflicts, held: map[lockKey]holder{}}
}

func (f *inFlight) intercept(
	ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (any, error) {
	keys := keysOf(req)
	if keys == (lockKeys{}) {
		return handler(ctx, req)
	}
	method := methodName(info.FullMethod)
	if err := f.tryLock(method, keys); err != nil {
		f.conflicts.WithLabelValues(method).Inc()
		return nil, err
	}
	defer f.unlock(keys)
	return handler(ctx, req)
}

// tryLock takes all keys or none. Errors: ErrBusy.
func (f *inFlight) tryLock(method string, keys lockKeys) error {
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, key := range keys {
		if by, busy := f.held[key]; busy {
			return fmt.Errorf("%w: %s has held %s %q for %v; retry when it has ended",
				volume.ErrBusy, by.method, key.space, key.name, now.Sub(by.since).Round(time.Millisecond))
		}
	}
	for _, key := range keys {
		if key.name != "" {
			f.held[key] = holder{method: method, since: now}
		}
	}
	return nil
}

func (f *inFlight) unlock(keys lockKeys) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, key := range keys {
		delete(f.held, key)
	}
}

// keysOf says what a call locks. Reading calls lock nothing. Of what is copied from, the pool sees
// to it that it is not deleted: a snapshot's volume can be published meanwhile. Groups are not
// among the driver's capabilities.
func keysOf(req any) lockKeys {
	switch r := req.(type) {
	case *csi.CreateVolumeRequest:
		return lockKeys{nameKey(r.GetName())}
	case *csi.CreateSnapshotRequest:
		return lockKeys{snapshotNameKey(r.GetName())}
	case *csi.DeleteSnapshotRequest:
		return lockKeys{snapshotKey(r.GetSnapshotId())}
	case *csi.NodeStageVolumeRequest:
		return lockKeys{idKey(r.GetVolumeId()), pathKey(r.GetStagingTargetPath())}
	case *csi.NodeUnstageVolumeRequest:
		return lockKeys{idKey(r.GetVolumeId()), pathKey(r.GetStagingTargetPath())}
	case *csi.NodePublishVolumeRequest:
		return lockKeys{idKey(r.GetVolumeId()), pathKey(r.GetTargetPath())}
	case *csi.NodeUnpublishVolumeRequest:
		return lockKeys{idKey(r.GetVolumeId()), pathKey(r.GetTargetPath())}
	case *csi.DeleteVolumeRequest:
		return lockKeys{idKey(r.GetVolumeId())}
	case *csi.ControllerPublishVolumeRequest:
		return lockKeys{idKey(r.GetVolumeId())}
	case *csi.ControllerUnpublishVolumeRequest:
		return lockKeys{idKey(r.GetVolumeId())}
	case *csi.ControllerExpandVolumeRequest:
		return lockKeys{idKey(r.GetVolumeId())}
	case *csi.ControllerModifyVolumeRequest:
		return lockKeys{idKey(r.GetVolumeId())}
	case *csi.NodeExpandVolumeRequest:
		return lockKeys{idKey(r.GetVolumeId())}
	}
	return lockKeys{}
}

// nameKey and idKey agree on the volume's directory, so that creating and deleting one volume
// exclude each other although the first knows no ID. What does not parse locks nothing: the handler
// refuses it.
func nameKey(s string) lockKey {
	name, err := volume.ParseName(s)
	if err != nil {
		return lockKey{}
	}
	return lockKey{volumeSpace, name.Dir()}
}

// What is no ID of this driver may be another's handle: of a path of the host, in a
// PersistentVolume written by hand, or of an inline volume, whose directory is named for it.
func idKey(s string) lockKey {
	id, err := volume.ParseID(s)
	if err != nil {
		return nameKey(s)
	}
	return lockKey{volumeSpace, id.Dir()}
}

// snapshotNameKey and snapshotKey agree on the snapshot's directory.
func snapshotNameKey(s string) lockKey {
	key := nameKey(s)
	if key.name != "" {
		key.space = snapshotSpace
	}
	return key
}

func snapshotKey(s string) lockKey {
	id, err := volume.ParseSnapshotID(s)
	if err != nil {
		return lockKey{}
	}
	return lockKey{snapshotSpace, id.Dir()}
}

// pathKey makes one key of the spellings of a path; it resolves nothing, and the path is used for
// nothing else.
func pathKey(s string) lockKey {
	if s == "" {
		return lockKey{}
	}
	return lockKey{pathSpace, filepath.Clean(s)}
}
