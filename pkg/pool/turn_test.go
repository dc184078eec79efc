package pool

import (
	"context"
	"errors"
	"os"
	"sync"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/copytree"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/layout"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

// queueing is a context that reports when somebody begins to wait for its end.
type queueing struct {
	context.Context

	waits chan struct{}
	once  *sync.Once
}

func (q queueing) Done() <-chan struct{} {
	q.once.Do(func() { close(q.waits) })
	return q.Context.Done()
}

// queued begins a copy while another one is under way, and returns when the copy waits. leave ends
// the other copy, and returns the error of the copy.
func queued(t *testing.T, p *Pool, work func(context.Context) error) (leave func() error) {
	t.Helper()
	leaveTurn, err := p.copier.Throttle.Enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx := queueing{Context: t.Context(), waits: make(chan struct{}), once: &sync.Once{}}
	ended := make(chan error, 1)
	go func() { ended <- work(ctx) }()
	select {
	case <-ctx.waits:
	case err := <-ended:
		t.Fatalf("the copy ended without its turn: %v", err)
	}
	return func() error {
		leaveTurn()
		return <-ended
	}
}

// oneAtATime returns a pool that makes one copy at a time, with an image volume.
func oneAtATime(t *testing.T, fstype string) (*Pool, volume.Volume) {
	t.Helper()
	p := poolOn(t, fstype)
	oneCopyAtATime(p)
	return p, createImage(t, p, imageSpec(volume.Ext4), volume.SizeRange{Required: 32 * mib})
}

// A copy that waits for its turn locks nothing. It copies the volume as it is when its turn has
// come.
func TestSnapshotThatQueuesIsOfTheVolumeAsItIsInItsTurn(t *testing.T) {
	for _, fstype := range disks.Types() {
		t.Run(fstype, func(t *testing.T) {
			p, v := oneAtATime(t, fstype)
			req := snapshotRequest(t, "s", v.ID)
			id := volume.NewSnapshotID(p.ID(), req.Name)
			leave := queued(t, p,
				func(ctx context.Context) error {
					_, err := p.createSnapshot(ctx, id, req, &copytree.Progress{})
					return err
				})
			stage(t, p, v.ID)
			if _, err := expand(t, p, v.ID, 48*mib, 0); err != nil {
				t.Fatal(err)
			}
			if err := leave(); err != nil {
				t.Fatal(err)
			}
			s, err := p.GetSnapshot(id)
			if err != nil || s.RestoreBytes != 48*mib || s.FilesystemBytes != 32*mib {
				t.Errorf("the snapshot is %+v, %v, want one of 48 MiB with a filesystem of 32", s, err)
			}
			again := from(t, "again", volume.FromSnapshot(id), 48*mib)
			again.Spec = v.Spec
			c := restore(t, p, again, only{p})
			if info, err := os.Stat(dataPath(p, c.ID)); err != nil || info.Size() != 48*mib ||
				c.FilesystemBytes != 32*mib {
				t.Errorf("the restored volume is %+v, with %v, %v", c, info, err)
			}
		})
	}
}

// stage changes the record as the first staging does.
func stage(t *testing.T, p *Pool, id volume.ID) {
	t.Helper()
	v, err := p.Get(id)
	if err != nil {
		t.Fatal(err)
	}
	if err := setFilesystemBytes(p, id, v.CapacityBytes); err != nil {
		t.Fatal(err)
	}
}

func TestCloneThatQueuesHasTheFilesystemThatWasMadeMeanwhile(t *testing.T) {
	p, v := oneAtATime(t, disks.XFS)
	req := from(t, "clone", volume.FromVolume(v.ID), 0)
	req.Spec = v.Spec
	id := volume.NewID(p.ID(), req.Name)
	leave := queued(t, p,
		func(ctx context.Context) error {
			_, err := p.restore(ctx, id, req, only{p}, &copytree.Progress{})
			return err
		})
	stage(t, p, v.ID)
	if err := leave(); err != nil {
		t.Fatal(err)
	}
	if c, err := p.Get(id); err != nil || c.FilesystemBytes != 32*mib {
		t.Errorf("the clone is %+v, %v: its filesystem would be made anew", c, err)
	}
}

func TestSourceOfACopyThatQueuesCanBeDeleted(t *testing.T) {
	p, v := oneAtATime(t, disks.Ext4)
	req := snapshotRequest(t, "s", v.ID)
	id := volume.NewSnapshotID(p.ID(), req.Name)
	leave := queued(t, p,
		func(ctx context.Context) error {
			_, err := p.createSnapshot(ctx, id, req, &copytree.Progress{})
			return err
		})
	wantLedger(t, p, v.CapacityBytes, 0)
	remove(t, p, v.ID)
	if err := leave(); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("%v, want ErrNotFound", err)
	}
	waitPurged(t, p)
	wantLedger(t, p, 0, 0)
}

func TestImageThatIsCopiedIsNeitherExpandedNorFormatted(t *testing.T) {
	p, v := oneAtATime(t, disks.Ext4)
	from, err := p.lockSourceVolume(v.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := expand(t, p, v.ID, 48*mib, 0); !errors.Is(err, volume.ErrBusy) {
		t.Errorf("expand: %v, want ErrBusy", err)
	}
	if err := setFilesystemBytes(p, v.ID, v.CapacityBytes); !errors.Is(err, volume.ErrBusy) {
		t.Errorf("its first filesystem: %v, want ErrBusy", err)
	}
	from.release()
	stage(t, p, v.ID)
	if _, err := expand(t, p, v.ID, 48*mib, 0); err != nil {
		t.Error(err)
	}
}

func TestCopyOfAnImageOfAnotherSizeIsRefused(t *testing.T) {
	for _, fstype := range []string{disks.Ext4, disks.XFS} {
		p, v := oneAtATime(t, fstype)
		if err := os.Truncate(dataPath(p, v.ID), v.CapacityBytes+mib); err != nil {
			t.Fatal(err)
		}
		if _, err := p.CreateSnapshot(
			t.Context(),
			snapshotRequest(t, "s", v.ID),
		); !errors.Is(
			err, volume.ErrBusy,
		) {
			t.Errorf("%s: %v, want ErrBusy", fstype, err)
		}
		wantEntries(t, p, layout.SnapshotsDir)
	}
}

// A directory may be expanded while it is copied. Its snapshot can hold more than the old size, and
// can still be restored.
func TestSnapshotOfADirectoryThatWasExpandedMeanwhileHasTheNewSize(t *testing.T) {
	p, v, g := slowPool(t)
	if _, err := p.CreateSnapshot(
		short(t, g),
		snapshotRequest(t, "s", v.ID),
	); !errors.Is(
		err, volume.ErrBusy,
	) {
		t.Fatal(err)
	}
	if _, err := expand(t, p, v.ID, 80*mib, 0); err != nil {
		t.Fatal(err)
	}
	close(g.opened)
	if s := snapshot(t, p, "s", v.ID); s.RestoreBytes != 80*mib {
		t.Errorf("the snapshot restores to %d bytes, want %d", s.RestoreBytes, 80*mib)
	}
}
