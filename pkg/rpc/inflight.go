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
	volumeSpace lockSpace = "volume"
	pathSpace   lockSpace = "path"
)

// lockKey is a volume or a path. One call at a time may hold it. A key without a name
// locks nothing.
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

// inFlight allows one changing call at a time for each volume and path. A second call
// does not wait: it gets ABORTED (CSI spec, "Error Scheme", "Operation pending for volume"). One
// mutex suffices, because it covers some map accesses and no handler.
type inFlight struct {
	conflicts *prometheus.CounterVec
	volumeKey func(id string) lockKey

	mu    sync.Mutex
	locks map[lockKey]holder
}

func newInFlight(conflicts *prometheus.CounterVec, scope Scope) *inFlight {
	f := &inFlight{conflicts: conflicts, volumeKey: dirKey, locks: map[lockKey]holder{}}
	if scope == ManyNodes {
		f.volumeKey = idKey
	}
	return f
}

func (f *inFlight) intercept(
	ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (any, error) {
	keys := keysOf(req, f.volumeKey)
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

// tryLock locks all keys or none. Errors: ErrBusy.
func (f *inFlight) tryLock(method string, keys lockKeys) error {
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, key := range keys {
		if by, busy := f.locks[key]; busy {
			return fmt.Errorf("%w: %s has held %s %q for %v; retry when it has ended",
				volume.ErrBusy, by.method, key.space, key.name, now.Sub(by.since).Round(time.Millisecond))
		}
	}
	for _, key := range keys {
		if key.name != "" {
			f.locks[key] = holder{method: method, since: now}
		}
	}
	return nil
}

func (f *inFlight) unlock(keys lockKeys) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, key := range keys {
		delete(f.locks, key)
	}
}

// keysOf is what a call locks. Calls that only read lock nothing. Nor do calls that create a
// volume, or create or delete a snapshot: what they change is published nowhere, and the pool gives
// each name to one of them (pool/internal/catalog), or lets the same request join
// (pkg/job). The source of a copy may be published meanwhile; the pool keeps it from
// being deleted. So it is with group snapshots. docs/design.md has all that excludes calls.
func keysOf(req any, volumeKey func(id string) lockKey) lockKeys {
	switch r := req.(type) {
	case *csi.NodeStageVolumeRequest:
		return lockKeys{volumeKey(r.GetVolumeId()), pathKey(r.GetStagingTargetPath())}
	case *csi.NodeUnstageVolumeRequest:
		return lockKeys{volumeKey(r.GetVolumeId()), pathKey(r.GetStagingTargetPath())}
	case *csi.NodePublishVolumeRequest:
		return lockKeys{volumeKey(r.GetVolumeId()), pathKey(r.GetTargetPath())}
	case *csi.NodeUnpublishVolumeRequest:
		return lockKeys{volumeKey(r.GetVolumeId()), pathKey(r.GetTargetPath())}
	case *csi.DeleteVolumeRequest:
		return lockKeys{volumeKey(r.GetVolumeId())}
	case *csi.ControllerPublishVolumeRequest:
		return lockKeys{volumeKey(r.GetVolumeId())}
	case *csi.ControllerUnpublishVolumeRequest:
		return lockKeys{volumeKey(r.GetVolumeId())}
	case *csi.ControllerExpandVolumeRequest:
		return lockKeys{volumeKey(r.GetVolumeId())}
	case *csi.ControllerModifyVolumeRequest:
		return lockKeys{volumeKey(r.GetVolumeId())}
	case *csi.NodeExpandVolumeRequest:
		return lockKeys{volumeKey(r.GetVolumeId())}
	}
	return lockKeys{}
}

// idKey is the volume's ID. What is no ID of this driver locks nothing: its handler changes
// nothing.
func idKey(s string) lockKey {
	id, err := volume.ParseID(s)
	if err != nil {
		return lockKey{}
	}
	return lockKey{volumeSpace, id.String()}
}

// dirKey is the volume's directory. It takes a text that is not an ID of this driver for a name: it
// may be the handle of a PersistentVolume that was written by hand, or of an inline volume, whose
// directory is named after the handle. A name that does not parse locks nothing: the handler
// refuses it.
func dirKey(s string) lockKey {
	if id, err := volume.ParseID(s); err == nil {
		return lockKey{volumeSpace, id.Dir()}
	}
	name, err := volume.ParseName(s)
	if err != nil {
		return lockKey{}
	}
	return lockKey{volumeSpace, name.Dir()}
}

// pathKey makes one key of all spellings of a path. It does not resolve links.
func pathKey(s string) lockKey {
	if s == "" {
		return lockKey{}
	}
	return lockKey{pathSpace, filepath.Clean(s)}
}
