package driver

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/config"
	"github.com/csi-hostpath/csi-hostpath/pkg/health"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// candidate is the only pool that may have an ID.
func candidate(t *testing.T, s *poolSet, id volume.PoolID) health.Pool {
	t.Helper()
	found, err := s.Candidates(id)
	fixture.Must(t, err)
	if len(found) != 1 {
		t.Fatalf("candidates for %s: %v", id, found)
	}
	return found[0]
}

func TestPoolWhoseDiskDiesIsUnhealthyWithAllItsVolumes(t *testing.T) {
	disk := disks.New(t, disks.XFS, 0)
	d := newDisplaceable(t, disk.Dir)
	id := d.volume.ID.Pool()
	if p := candidate(t, d.set, id); p.Reason != "" || p.Pool != d.pool {
		t.Errorf("before: %+v", p)
	}
	states := newPoolStates(d.set)
	if n := states.measure().GetPools()[0].GetUnhealthyVolumes(); n != 0 {
		t.Errorf("%d volumes of a healthy pool are unhealthy", n)
	}
	disk.Shutdown(t)
	if p := candidate(t, d.set, id); p.Reason != volume.ReasonDiskFailed || p.Pool != d.pool {
		t.Errorf("after: %+v", p)
	}
	if n := states.measure().GetPools()[0].GetUnhealthyVolumes(); n != 1 {
		t.Errorf("%d volumes of a dead disk are unhealthy, want 1", n)
	}
}

// What was known of the volumes is known after the pool has been closed.
func TestPoolThatWasGivenUpKeepsItsVolumesInMemory(t *testing.T) {
	at := filepath.Join(t.TempDir(), "pool")
	d := newDisplaceable(t, at)
	v, err := d.pool.Get(d.volume.ID)
	fixture.Must(t, err)
	v.AddFault(volume.FaultImageDamaged)
	fixture.Must(t, os.Rename(at, at+".moved"))
	d.wantGivenUp(t)
	p := candidate(t, d.set, d.volume.ID.Pool())
	if p.Reason == "" || p.Pool == nil || p.IsOptional {
		t.Errorf("the pool is %+v", p)
	}
	faults, err := p.Pool.Faults(d.volume.ID)
	if err != nil || len(faults) != 1 {
		t.Errorf("faults: %v, %v", faults, err)
	}
	pushed := newPoolStates(d.set).measure().GetPools()[0]
	if pushed.GetUnhealthyVolumes() != 1 || len(pushed.GetUnhealthy()) != 1 ||
		pushed.GetUnhealthy()[0].GetFaults()[0] != string(volume.FaultImageDamaged) {
		t.Errorf("pushed is %v", pushed)
	}
	fixture.Must(t, os.Rename(at+".moved", at))
	d.wantBack(t)
	if p := candidate(t, d.set, d.volume.ID.Pool()); p.Reason != "" || p.Pool == d.pool {
		t.Errorf("the pool that is back is %+v", p)
	}
}

func TestPoolThatHasNotBeenOpenMayHaveAnyVolume(t *testing.T) {
	optional := config.NewPool("optional", filepath.Join(t.TempDir(), "absent"))
	optional.Optional = true
	s := newPools(t, config.NewPool("foreign", t.TempDir()), optional)
	id := volume.PoolID("0123456789ab")
	if _, err := s.Candidates(id); !errors.Is(err, volume.ErrUnavailable) {
		t.Errorf("before the pools are tried: %v", err)
	}
	fixture.Must(t, os.WriteFile(filepath.Join(s.slots[0].config.Path, "file"), nil, 0o600))
	for _, slot := range s.slots {
		if err := s.open(t.Context(), slot); err == nil {
			t.Errorf("pool %s is open", slot.config.Name)
		}
	}
	found, err := s.Candidates(id)
	fixture.Must(t, err)
	if len(found) != 2 || found[0].Reason != volume.ReasonForeign || found[0].IsOptional ||
		found[1].Reason != volume.ReasonAbsent || !found[1].IsOptional {
		t.Errorf("candidates: %+v", found)
	}
	if _, err := newPools(t).Candidates(id); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("of no pool: %v", err)
	}
}
