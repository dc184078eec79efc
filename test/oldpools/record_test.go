package oldpools

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

var (
	recordDriver = flag.String("driver", "",
		"record pools with this driver, which was built with -tags failpoint, into testdata")
	recordVersion = flag.String("version", "", "what the driver's version is called in testdata")
)

// Each run records pools with today's driver and checks them like the archives, so that the next
// archive can be made when it is needed. With -driver and -version it makes that archive.
func TestTodaysPoolsCanBeRecordedAndUsed(t *testing.T) {
	disks.RequireRoot(t)
	if (*recordDriver == "") != (*recordVersion == "") {
		t.Fatal("-driver and -version are given together, or not at all")
	}
	driver := fixture.Build(t, "failpoint")
	for _, fstype := range disks.Types() {
		t.Run(fstype, func(t *testing.T) {
			t.Parallel()
			recorder, archive := driver, archivePath(t.TempDir(), "today", fstype)
			if *recordDriver != "" {
				recorder, archive = *recordDriver, archivePath("testdata", *recordVersion, fstype)
			}
			recordPool(t, recorder, fstype, archive)
			useOldPool(t, driver, archive)
		})
	}
}

// recordPool makes a pool with everything that a pool can have, and packs it.
func recordPool(t *testing.T, driver, fstype, archive string) {
	t.Helper()
	disk := disks.New(t, fstype, diskBytes)
	r := recorder{node: newNode(t, driver, disk), disk: disk}
	r.Start()
	r.makeVolumes()
	fixture.Must(t, os.WriteFile(filepath.Join(r.publishInline(), "file"), []byte(inlineName), 0o640))
	r.leaveUnfinished()
	r.leaveTrash()
	r.leaveDeletedInPlace(fstype)
	r.Kill()
	r.putBack()
	pack(t, disk.Dir, archive)
}

// recorder leaves in a pool what a driver removes when it starts. It is put aside until the last
// driver has ended.
type recorder struct {
	*node
	disk  disks.Disk
	aside []string // paths in the pool
}

func (r *recorder) makeVolumes() {
	r.t.Helper()
	for _, v := range recordedVolumes() {
		var source *csi.VolumeContentSource
		switch {
		case v.ofSnapshot:
			source = fixture.FromSnapshot(r.snapshotIDs()[v.source])
		case v.source != "":
			source = fixture.FromVolume(r.volumeIDs()[volumeNamed(v.source).directory()])
		}
		id := r.mustCreate(v, source)
		if v.source != "" || v.unused {
			continue
		}
		fixture.Must(r.t, v.write(r.publish(id, v)))
		r.unpublish(id)
		for _, s := range recordedSnapshots() {
			if s.source == v.name {
				r.createSnapshot(s.name, id)
			}
		}
	}
}

// leaveUnfinished kills the driver when it has made a volume's data, and not yet its record.
func (r *recorder) leaveUnfinished() {
	r.t.Helper()
	r.dieAt("create.data-made")
	_, err := r.create(oldVolume{name: "unfinished", bytes: mebi}, nil)
	r.wantDeath(err)
	r.putAside("tmp")
}

// leaveTrash kills the driver before it purges what it deleted.
func (r *recorder) leaveTrash() {
	r.t.Helper()
	r.Start()
	volumeID := r.mustCreate(oldVolume{name: "deleted", bytes: mebi}, nil)
	snapshotID := r.createSnapshot("deleted", volumeID)
	r.deleteAndDie(func() error {
		_, err := r.Controller.DeleteSnapshot(r.t.Context(),
			&csi.DeleteSnapshotRequest{SnapshotId: snapshotID})
		return err
	})
	r.putAside("trash")
	r.deleteVolumeAndDie(volumeID)
	r.putAside("trash")
}

// leaveDeletedInPlace fills the disk and kills the driver before it purges what it deleted. Only a
// full btrfs surely refuses the rename; elsewhere the mode is set here, as the driver would.
func (r *recorder) leaveDeletedInPlace(fstype string) {
	r.t.Helper()
	r.Start()
	id := r.mustCreate(oldVolume{name: "deleted-in-place", bytes: mebi}, nil)
	path := r.Path(poolName, "volumes", "deleted-in-place")
	if fstype != disks.Btrfs {
		r.Kill()
		fixture.Must(r.t, unix.Chmod(path, deletedInPlace))
		return
	}
	r.dieAt("delete.taken")
	r.disk.Fill(r.t)
	defer r.disk.Unfill(r.t)
	_, err := r.Controller.DeleteVolume(r.t.Context(), &csi.DeleteVolumeRequest{VolumeId: id})
	r.wantDeath(err)
	var st unix.Stat_t
	fixture.Must(r.t, unix.Lstat(path, &st))
	if st.Mode&0o7777 != deletedInPlace {
		r.t.Fatalf("%s has mode %#o, want %#o", path, st.Mode, deletedInPlace)
	}
}

// dieAt has the driver killed when it first comes to a step.
func (r *recorder) dieAt(step string) {
	r.t.Helper()
	r.Kill()
	r.Start("CSI_HOSTPATH_FAILPOINT=" + step + ":1")
}

func (r *recorder) wantDeath(err error) {
	r.t.Helper()
	if err == nil {
		r.t.Fatal("the driver has survived the step at which it was to be killed")
	}
	<-r.Exited()
}

func (r *recorder) deleteAndDie(remove func() error) {
	r.t.Helper()
	r.dieAt("delete.taken")
	r.wantDeath(remove())
}

func (r *recorder) deleteVolumeAndDie(id string) {
	r.t.Helper()
	r.deleteAndDie(func() error {
		_, err := r.Controller.DeleteVolume(r.t.Context(), &csi.DeleteVolumeRequest{VolumeId: id})
		return err
	})
}

// putAside takes all out of tmp/ or trash/.
func (r *recorder) putAside(dir string) {
	r.t.Helper()
	r.Kill()
	names := r.entries(dir)
	if len(names) != 1 {
		r.t.Fatalf("%s/ has %q, want one entry", dir, names)
	}
	for _, name := range names {
		fixture.Must(r.t, os.MkdirAll(r.Path("aside", dir), 0o700))
		fixture.Must(r.t, os.Rename(r.Path(poolName, dir, name), r.Path("aside", dir, name)))
		r.aside = append(r.aside, filepath.Join(dir, name))
	}
}

// putBack is for a pool that no driver will open any more.
func (r *recorder) putBack() {
	r.t.Helper()
	for _, path := range r.aside {
		fixture.Must(r.t, os.Rename(r.Path("aside", path), r.Path(poolName, path)))
	}
}
