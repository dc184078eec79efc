package pool

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

// enforcedRequest is a request of a class of backing: enforced for at least that size.
func enforcedRequest(t *testing.T, name string, bytes int64) volume.CreateRequest {
	t.Helper()
	req := request(t, name, bytes)
	req.Size.Limit = 0
	req.Spec.Backing, req.Spec.EnforcedSize = volume.EnforcedBacking, true
	req.Spec.Allocation = volume.Sparse
	return req
}

func createEnforced(t *testing.T, p *Pool, name string, bytes int64) volume.Volume {
	t.Helper()
	v, err := p.Create(t.Context(), enforcedRequest(t, name, bytes))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestEnforcedSizeHoldsInEachPool(t *testing.T) {
	for _, fstype := range disks.Types() {
		t.Run(fstype, func(t *testing.T) {
			disk := disks.New(t, fstype, 0)
			p := openPool(t, Options{Name: "p", Path: filepath.Join(disk.Dir, "pool")})
			req := enforcedRequest(t, "v", mib)
			largest, err := p.Largest(req.Spec)
			if want := req.Spec.DecideFor(p.backend).Largest(
				status(t, p).AvailableBytes); err != nil || largest != want {
				t.Errorf("the largest has %d bytes, %v, want %d", largest, err, want)
			}
			v := createEnforced(t, p, "v", mib)
			if v.Spec.IsImage() == p.Filesystem().EnforcesSizes || !v.Spec.EnforcedSize {
				t.Errorf("the pool enforces sizes (%t), and the volume is %+v",
					p.Filesystem().EnforcesSizes, v.Spec)
			}
			if least := v.Spec.MinimumBytes(); v.CapacityBytes != max(mib, least) {
				t.Errorf("the volume has %d bytes, want one MiB, and at least %d", v.CapacityBytes, least)
			}
			if n := status(t, p).Unenforced; n != 0 {
				t.Errorf("%d volumes can grow beyond their size", n)
			}
			p = restart(t, p)
			if again := createEnforced(t, p, "v", mib); again.Spec != v.Spec {
				t.Errorf("after a restart the answer is %+v, want %+v", again.Spec, v.Spec)
			}
			if _, err := p.Create(t.Context(), request(t, "v", v.CapacityBytes)); !errors.Is(
				err, volume.ErrIncompatible,
			) {
				t.Errorf("for another class: %v, want ErrIncompatible", err)
			}
		})
	}
}

// reopen opens the pool again, with quotas or without.
func (p *Pool) reopen(t *testing.T, ignoreQuota bool) *Pool {
	t.Helper()
	closePool(t, p)
	opts := p.opts
	opts.IgnoreQuota = ignoreQuota
	return openPool(t, opts)
}

// What a volume is was decided when it was made, and is in its record: its pool may enforce sizes
// later, or not any more.
func TestEnforcedVolumeStaysWhatItIs(t *testing.T) {
	disk := disks.New(t, disks.Btrfs, 0)
	p := openPool(t, Options{Name: "p", Path: filepath.Join(disk.Dir, "pool"), IgnoreQuota: true})
	image := createEnforced(t, p, "image", 32*mib)
	p = p.reopen(t, false)
	dir := createEnforced(t, p, "dir", 32*mib)
	if !image.Spec.IsImage() || dir.Spec.IsImage() {
		t.Fatalf("without quotas it is %+v, with quotas %+v", image.Spec, dir.Spec)
	}
	for _, ignoreQuota := range []bool{true, false} {
		p = p.reopen(t, ignoreQuota)
		for _, want := range []volume.Volume{image, dir} {
			if got := createEnforced(t, p, want.Name.String(), 32*mib); got.Spec != want.Spec {
				t.Errorf("without quotas (%t) %s is %+v, want %+v", ignoreQuota, want.ID, got.Spec, want.Spec)
			}
			got, err := p.Expand(t.Context(), want.ID, volume.SizeRange{Required: 64 * mib})
			if err != nil || got.Spec != want.Spec {
				t.Errorf("without quotas (%t) %s grows into %+v, %v", ignoreQuota, want.ID, got.Spec, err)
			}
		}
	}
}

// A copy is what its source is. One that could be no more than counted is refused.
func TestCopyForAnEnforcedClassIsWhatItsSourceIs(t *testing.T) {
	disk := disks.New(t, disks.Btrfs, 0)
	enforcing := openPool(t, Options{Name: "enforcing", Path: filepath.Join(disk.Dir, "pool")})
	// Without quotas also where all filesystems have them, and larger than the machine's memory.
	counting := openPool(t, Options{
		Name: "p", Path: filepath.Join(disks.New(t, disks.Btrfs, 4<<30).Dir, "pool"), IgnoreQuota: true,
	})
	pools := only{enforcing, counting}
	ask := func(name string, source volume.Source) volume.CreateRequest {
		req := enforcedRequest(t, name, 32*mib)
		req.Source = source
		return req
	}
	dir := createEnforced(t, enforcing, "dir", 32*mib)
	image := createEnforced(t, counting, "image", 32*mib)
	xfs := imageSpec(volume.XFS)
	xfsImage := createImage(t, counting, xfs, volume.SizeRange{Required: 1})
	snapshot, err := counting.CreateSnapshot(t.Context(), snapshotRequest(t, "s", image.ID))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		pool   *Pool
		name   string
		source volume.Source
		want   volume.Spec
	}{
		{enforcing, "of-directory", volume.FromVolume(dir.ID), dir.Spec},
		{enforcing, "of-image", volume.FromVolume(image.ID), image.Spec},
		{counting, "of-image", volume.FromVolume(image.ID), image.Spec},
		{counting, "of-snapshot", volume.FromSnapshot(snapshot.ID), image.Spec},
	} {
		for range 2 { // made, and found
			v := restore(t, tt.pool, ask(tt.name, tt.source), pools)
			if v.Spec != tt.want {
				t.Errorf("%s: the copy is %+v, want %+v", tt.name, v.Spec, tt.want)
			}
		}
	}
	large := ask("xfs", volume.FromVolume(xfsImage.ID))
	large.Size = volume.SizeRange{}
	for range 2 {
		if v := restore(t, counting, large, pools); v.Spec.FSType != volume.XFS || !v.Spec.EnforcedSize {
			t.Errorf("the copy of an image with XFS is %+v", v.Spec)
		}
	}
	for _, source := range []volume.ID{dir.ID, create(t, counting, "counted", 32*mib).ID} {
		_, err := counting.CreateFrom(t.Context(), ask("refused", volume.FromVolume(source)), pools)
		if !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), `"backing" is enforced`) {
			t.Errorf("a copy of directory %s in a pool that only counts: %v, want ErrInvalid", source, err)
		}
	}
	wantEntries(t, counting, "tmp")
}

// Only a directory's number of files can be limited, and only by project quotas.
func TestEnforcedSizeWithANumberOfInodesIsADirectory(t *testing.T) {
	p := newPool(t)
	req := enforcedRequest(t, "v", mib)
	req.Spec.Inodes = 100
	_, err := p.Create(t.Context(), req)
	if !errors.Is(err, volume.ErrNoSpace) || !strings.Contains(err.Error(), `"inodes"`) {
		t.Errorf("%v, want ErrNoSpace naming the parameter", err)
	}
	if largest, err := p.Largest(req.Spec); largest != 0 || err != nil {
		t.Errorf("the largest has %d bytes, %v, want none", largest, err)
	}
}
