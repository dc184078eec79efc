package repair

import (
	"errors"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/backend/projquota"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/layout"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/record"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/trash"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Misfiled is a file of a volume that counts for another project than the volume.
type Misfiled struct {
	// Path starts at the pool's directory.
	Path    string
	Project volume.QuotaID
	// Victim is the volume that has the project ID; zero if no volume of the pool has it.
	Victim volume.ID
}

// RechargeReport is what Recharge tells.
type RechargeReport struct {
	// Found returns whether the file is to count for its volume.
	Found func(Misfiled) bool
	// Failed is called for what could not be looked at. Its path starts at the pool's directory.
	Failed func(path string, err error)
}

// Recharge finds the files of a pool's volumes that count for another project than their volume: on
// XFS and ext4 the owner of a file may change its project ID. A driver may have the pool open, and
// pods may use the volumes. It looks at each file of the volumes that have a project ID, and
// returns how many volumes these are. Errors: os.ErrNotExist when there is no pool.
func Recharge(path string, r RechargeReport) (lookedAt int, err error) {
	id, err := layout.IDAt(path)
	if err != nil {
		return 0, err
	}
	root, err := openat.OpenDir(path)
	if err != nil {
		return 0, err
	}
	defer root.Close()
	volumes, err := root.OpenDir(layout.VolumesDir)
	if err != nil {
		return 0, err
	}
	defer volumes.Close()
	all, err := withProject(volumes, id)
	if err != nil {
		return 0, err
	}
	owners := make(map[volume.QuotaID]volume.ID, len(all))
	for _, v := range all {
		owners[v.QuotaID] = v.ID
	}
	for _, v := range all {
		if err := recharge(volumes, v, owners, r); err != nil {
			r.Failed(filepath.Join(layout.VolumesDir, v.ID.Dir()), err)
		}
	}
	return len(all), nil
}

// withProject returns the volumes whose data have project IDs.
func withProject(volumes openat.Dir, pool volume.PoolID) ([]volume.Volume, error) {
	names, err := volumes.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var all []volume.Volume
	for _, name := range names {
		if v, err := recordOf(volumes, pool, name); err == nil && projquota.IsProjectID(v.QuotaID) {
			all = append(all, v)
		}
	}
	return all, nil
}

// recordOf reads the record of a volume. Errors: also for what is deleted in place.
func recordOf(volumes openat.Dir, pool volume.PoolID, name string) (volume.Volume, error) {
	if deleted, err := trash.HasTombstone(volumes, name); deleted || err != nil {
		return volume.Volume{}, errors.Join(volume.ErrNotFound, err)
	}
	return layout.ReadRecord(volumes, name+"/"+record.VolumeFile,
		func(content []byte) (volume.Volume, error) {
			return record.DecodeVolume(pool, name, content)
		})
}

// recharge looks at the files of one volume.
func recharge(
	volumes openat.Dir, v volume.Volume, owners map[volume.QuotaID]volume.ID, r RechargeReport,
) error {
	dir, err := volumes.OpenUnmounted(v.ID.Dir())
	if err != nil {
		return ignoreAbsent(err)
	}
	defer dir.Close()
	data, err := backend.OpenData(dir, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return ignoreAbsent(err)
	}
	defer data.Close()
	at := filepath.Join(layout.VolumesDir, v.ID.Dir(), backend.Data)
	return projquota.Recharge(data, v.QuotaID, projquota.Report{
		Found: func(path string, project volume.QuotaID) bool {
			return r.Found(Misfiled{
				Path: filepath.Join(at, path), Project: project, Victim: owners[project],
			})
		},
		Failed: func(path string, err error) { r.Failed(filepath.Join(at, path), err) },
	})
}

// ignoreAbsent takes an error of a volume that is being deleted for none.
func ignoreAbsent(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
