package repair_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/repair"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

const mib = 1 << 20

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fixture is a pool that no driver has open, with volumes.
type fixture struct {
	t    *testing.T
	path string
}

func newFixture(t *testing.T, dir string) *fixture {
	t.Helper()
	disks.RequireRoot(t)
	return &fixture{t: t, path: filepath.Join(dir, "pool")}
}

// open opens the pool, calls the function, and closes the pool.
func (f *fixture) open(do func(p *pool.Pool)) {
	f.t.Helper()
	p, err := pool.Open(f.t.Context(), pool.Options{Name: "p", Path: f.path})
	must(f.t, err)
	do(p)
	must(f.t, p.Close())
}

// create creates a volume.
func (f *fixture) create(name string, spec volume.Spec, bytes int64) (v volume.Volume) {
	f.t.Helper()
	parsed, err := volume.ParseName(name)
	must(f.t, err)
	f.open(func(p *pool.Pool) {
		v, err = p.Create(f.t.Context(), volume.CreateRequest{
			Name: parsed, Spec: spec, Size: volume.SizeRange{Required: bytes},
			Owner: volume.Owner{Namespace: "shop", Claim: "books", PV: name},
		})
		must(f.t, err)
	})
	return v
}

// get returns the volume as the driver has it after its next start.
func (f *fixture) get(id volume.ID) (v volume.Volume, err error) {
	f.t.Helper()
	f.open(func(p *pool.Pool) {
		var found pool.Volume
		found, err = p.Get(id)
		v = found.Volume
	})
	return v, err
}

func (f *fixture) record(v volume.Volume) string {
	return filepath.Join(f.path, "volumes", v.ID.Dir(), "volume.json")
}

func (f *fixture) data(v volume.Volume) string {
	return filepath.Join(filepath.Dir(f.record(v)), "data")
}

// repair makes the record again, and writes it.
func (f *fixture) repair(handle string, opts repair.Options) (summary string, err error) {
	f.t.Helper()
	p, err := repair.OpenPool(f.path)
	must(f.t, err)
	defer func() { must(f.t, p.Close()) }()
	plan, err := repair.New(f.t.Context(), p, handle, opts)
	if err != nil {
		return "", err
	}
	defer func() { must(f.t, plan.Close()) }()
	return plan.Summary(), plan.Write()
}

func (f *fixture) mkfs(v volume.Volume) {
	f.t.Helper()
	out, err := exec.Command("mkfs.ext4", "-q", "-F", "-b", "4096", f.data(v)).CombinedOutput()
	if err != nil {
		f.t.Fatalf("%s: %v", out, err)
	}
}

func directory() volume.Spec {
	return volume.Spec{Type: volume.DirectoryOrCreate, Mode: 0o2770, UID: 7, GID: 9}
}

func imageOf(fsType volume.FSType) volume.Spec {
	return volume.Spec{
		Type: volume.DirectoryOrCreate, Mode: 0o755, Backing: volume.ImageBacking, FSType: fsType,
		Allocation: volume.Sparse,
	}
}

func TestLostRecordIsMadeAgainFromTheData(t *testing.T) {
	for name, tt := range map[string]struct {
		spec  volume.Spec
		bytes int64
		opts  repair.Options
		mkfs  bool
	}{
		"directory": {spec: directory(), bytes: 5 * mib, opts: repair.Options{CapacityBytes: 5 * mib}},
		"file": {
			spec:  volume.Spec{Type: volume.FileOrCreate, Mode: 0o600, UID: 3},
			bytes: 5 * mib,
			opts:  repair.Options{CapacityBytes: 5 * mib, Backing: "directory"},
		},
		"image":     {spec: imageOf(volume.Ext4), bytes: 32 * mib, mkfs: true},
		"raw block": {spec: imageOf(""), bytes: mib, opts: repair.Options{Backing: "image"}},
		"raw block with a filesystem": {
			spec: imageOf(""), bytes: 32 * mib, mkfs: true,
			opts: repair.Options{FSType: repair.NoFilesystem},
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, lost := range []string{"", "half a rec"} {
				f := newFixture(t, t.TempDir())
				want := f.create("pvc-1", tt.spec, tt.bytes)
				if tt.mkfs {
					f.mkfs(want)
				}
				if tt.mkfs && tt.spec.FSType != "" {
					want.FilesystemBytes = tt.bytes
				}
				must(t, os.WriteFile(f.record(want), []byte(lost), 0o600))
				if _, err := f.get(want.ID); !errors.Is(err, volume.ErrCorrupt) {
					t.Fatalf("without a record: %v", err)
				}
				_, err := f.repair(want.ID.String(), tt.opts)
				must(t, err)
				got, err := f.get(want.ID)
				got.Created, want.Owner = want.Created, got.Owner
				if got != want || err != nil {
					t.Errorf("got %+v, %v, want %+v", got, err, want)
				}
			}
		})
	}
}

// A record of another volume in the directory is not used for this volume.
func TestRecordOfAnotherVolumeLeavesOnlyItsClass(t *testing.T) {
	f := newFixture(t, t.TempDir())
	v := f.create("pvc-1", imageOf(volume.Ext4), 32*mib)
	other := f.create("pvc-2", imageOf(volume.Ext4), 64*mib)
	f.mkfs(v)
	content, err := os.ReadFile(f.record(other))
	must(t, err)
	must(t, os.WriteFile(f.record(v), content, 0o600))
	// The operator may name a volume by its directory.
	_, err = f.repair("pvc-1", repair.Options{Owner: volume.Owner{Claim: "films"}})
	must(t, err)
	got, err := f.get(v.ID)
	if err != nil || got.Name != v.Name || got.CapacityBytes != 32*mib ||
		got.FilesystemBytes != 32*mib {
		t.Errorf("got %+v, %v", got, err)
	}
	text, err := os.ReadFile(f.record(v))
	if err != nil || !strings.Contains(string(text), `"claim": "films"`) ||
		strings.Contains(string(text), "pvc-2") {
		t.Errorf("the record is %s, %v", text, err)
	}
}

func TestRecordThatIsRightStaysAsItIs(t *testing.T) {
	f := newFixture(t, t.TempDir())
	for _, v := range []volume.Volume{
		f.create("dir", directory(), mib), f.create("image", imageOf(volume.XFS), 304*mib),
		f.create("block", imageOf(""), mib),
	} {
		p, err := repair.OpenPool(f.path)
		must(t, err)
		plan, err := repair.New(t.Context(), p, v.ID.String(), repair.Options{})
		must(t, err)
		if plan.IsNeeded() {
			t.Errorf("%s becomes %s", plan.Old, plan.New)
		}
		must(t, errors.Join(plan.Close(), p.Close()))
	}
}

// btrfs can tell the quota group of a subvolume.
func TestQuotaIDIsFoundAgain(t *testing.T) {
	f := newFixture(t, disks.New(t, disks.Btrfs, 0).Dir)
	want := f.create("pvc-1", directory(), 8*mib)
	if want.QuotaID == 0 {
		t.Skip("needs btrfs with quotas")
	}
	must(t, os.Remove(f.record(want)))
	_, err := f.repair(want.ID.String(), repair.Options{CapacityBytes: 8 * mib})
	must(t, err)
	if got, err := f.get(want.ID); err != nil || got.QuotaID != want.QuotaID {
		t.Errorf("the quota ID is %d, %v, want %d", got.QuotaID, err, want.QuotaID)
	}
	f.open(func(p *pool.Pool) {
		if s, err := p.Status(); err != nil || s.Unenforced != 0 {
			t.Errorf("%d volumes are unenforced, %v, want none", s.Unenforced, err)
		}
	})
}

// An image without a whole filesystem is formatted only if the operator says so.
func TestImageWithUnknownContentIsErasedOnlyOnRequest(t *testing.T) {
	f := newFixture(t, t.TempDir())
	v := f.create("pvc-1", imageOf(volume.Ext4), 32*mib)
	image, err := os.OpenFile(f.data(v), os.O_RDWR, 0)
	must(t, err)
	defer image.Close()
	_, err = image.WriteAt([]byte("half a filesystem"), 4096)
	must(t, err)
	if _, err := f.repair(v.ID.String(), repair.Options{}); !errors.Is(err, volume.ErrInvalid) ||
		!strings.Contains(err.Error(), "--erase") {
		t.Errorf("without --erase: %v", err)
	}
	summary, err := f.repair(v.ID.String(), repair.Options{Erase: true})
	if err != nil || !strings.Contains(summary, "ERASED") {
		t.Errorf("%q, %v", summary, err)
	}
	if got, err := f.get(v.ID); err != nil || !got.Formatting || got.FilesystemBytes != 0 {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestWhatTheOperatorHasToSayIsAskedFor(t *testing.T) {
	long := strings.Repeat("n", 100) // the directory's name is a digest of this name
	for name, tt := range map[string]struct {
		volume string
		spec   volume.Spec
		opts   repair.Options
		want   string
	}{
		"size":              {"v", directory(), repair.Options{}, "--capacity"},
		"kind":              {"v", imageOf(""), repair.Options{}, "--backing"},
		"name":              {long, directory(), repair.Options{CapacityBytes: mib}, "--name"},
		"wrong name":        {"v", directory(), repair.Options{CapacityBytes: mib, Name: "w"}, "belongs in directory w"},
		"wrong type":        {"v", directory(), repair.Options{CapacityBytes: mib, Type: volume.FileOrCreate}, "--type"},
		"wrong backing":     {"v", directory(), repair.Options{CapacityBytes: mib, Backing: "image"}, "no image"},
		"wrong size":        {"v", imageOf(""), repair.Options{Backing: "image", CapacityBytes: 2 * mib}, "--capacity"},
		"no filesystem yet": {"v", imageOf(""), repair.Options{FSType: volume.XFS}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, t.TempDir())
			v := f.create(tt.volume, tt.spec, mib)
			must(t, os.Remove(f.record(v)))
			_, err := f.repair(v.ID.Dir(), tt.opts)
			if tt.want == "" { // an image with only zeroes gets the filesystem of the options
				must(t, err)
				return
			}
			if !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v: want %q", err, tt.want)
			}
			if _, err := os.Stat(f.record(v)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("a record was written: %v", err)
			}
		})
	}
}

func TestPoolOfARunningDriverIsNotRepaired(t *testing.T) {
	f := newFixture(t, t.TempDir())
	v := f.create("v", directory(), mib)
	f.open(func(*pool.Pool) {
		if p, err := repair.OpenPool(f.path); !errors.Is(err, volume.ErrUnavailable) {
			t.Errorf("opened %v, %v", p, err)
		}
	})
	for _, handle := range []string{"w", "../v", "000000000000-v", ""} {
		if _, err := f.repair(handle, repair.Options{}); !errors.Is(err, volume.ErrNotFound) &&
			!errors.Is(err, volume.ErrInvalid) {
			t.Errorf("%q: %v", handle, err)
		}
	}
	must(t, os.RemoveAll(filepath.Dir(f.record(v))+"/data"))
	if _, err := f.repair("v", repair.Options{}); !errors.Is(err, volume.ErrCorrupt) {
		t.Errorf("without data: %v", err)
	}
}
