package nodeserver

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/image/filesystem"
	"github.com/csi-hostpath/csi-hostpath/pkg/image/loopdev"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/staging"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// snapshot takes a snapshot called s.
func (n *imageNode) snapshot() (volume.Snapshot, error) {
	n.t.Helper()
	parsed, err := volume.ParseName("s")
	fixture.Must(n.t, err)
	return n.pool.CreateSnapshot(n.t.Context(), volume.SnapshotRequest{Name: parsed, Source: n.id})
}

// ownPools implements pool.Sources with the node's pool.
type ownPools struct{ *pool.Pool }

func (p ownPools) ByID(volume.PoolID) (*pool.Pool, error) { return p.Pool, nil }

func (n *imageNode) createFrom(
	name string, source volume.Source, spec volume.Spec, size int64,
) (volume.ID, error) {
	n.t.Helper()
	parsed, err := volume.ParseName(name)
	fixture.Must(n.t, err)
	v, err := n.pool.CreateFrom(n.t.Context(), volume.CreateRequest{
		Name: parsed, Source: source, Spec: spec, Size: volume.SizeRange{Required: size},
	}, ownPools{n.pool})
	return v.ID, err
}

// other returns the same node with another volume and another staging path.
func (n *imageNode) other(id volume.ID, stagingName string) *imageNode {
	n.t.Helper()
	fixture.Must(n.t, os.MkdirAll(n.target(stagingName), 0o750))
	return &imageNode{node: n.node, t: n.t, id: id, stagingName: stagingName}
}

// count writes rising numbers to two files, each to the first and then to the second, durably,
// until stop. At each moment the first number equals the second, or is larger by one.
func count(t *testing.T, dir string) (stop func()) {
	t.Helper()
	var files [2]*os.File
	for i, name := range []string{"first", "second"} {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_WRONLY, 0o600)
		fixture.Must(t, err)
		files[i] = f
	}
	quit, started, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		for n := uint64(1); ; n++ {
			for _, f := range files {
				_, err := f.WriteAt(binary.BigEndian.AppendUint64(nil, n), 0)
				if err := errors.Join(err, f.Sync()); err != nil {
					ended <- err
					return
				}
			}
			if n == 1 {
				close(started)
			}
			select {
			case <-quit:
				ended <- errors.Join(files[0].Close(), files[1].Close())
				return
			default:
			}
		}
	}()
	<-started
	return func() {
		t.Helper()
		close(quit)
		fixture.Must(t, <-ended)
	}
}

func wantCounted(t *testing.T, dir string) {
	t.Helper()
	var numbers [2]uint64
	for i, name := range []string{"first", "second"} {
		content, err := os.ReadFile(filepath.Join(dir, name))
		fixture.Must(t, err)
		numbers[i] = binary.BigEndian.Uint64(content)
	}
	if first, second := numbers[0], numbers[1]; first != second && first != second+1 || second == 0 {
		t.Errorf("the copy has the numbers %d and %d, which the files never had at one moment",
			first, second)
	}
}

// XFS and btrfs have reflinks, ext4 has none.
func TestCopyOfAnImageIsOfOneMomentWhileItsPodWrites(t *testing.T) {
	for _, poolOn := range []string{disks.Ext4, disks.XFS, disks.Btrfs} {
		for _, fsType := range []volume.FSType{volume.XFS, volume.Btrfs} {
			t.Run(fmt.Sprintf("%s in %s", fsType, poolOn), func(t *testing.T) {
				n := newImageNodeOn(t, imageSpec(fsType),
					filepath.Join(disks.New(t, poolOn, 8<<30).Dir, "pool"))
				n.stageAndPublish("a")
				stop := count(t, n.target("a"))
				s, err := n.snapshot()
				fixture.Must(t, err)
				clone, err := n.createFrom("clone", volume.FromVolume(n.id), imageSpec(fsType), 0)
				fixture.Must(t, err)
				stop()
				if s.RestoreBytes != n.capacity() || s.HeldBytes <= 0 || s.HeldBytes > s.RestoreBytes {
					t.Errorf("the snapshot of %d bytes has %d and restores to %d", n.capacity(), s.HeldBytes,
						s.RestoreBytes)
				}
				before := usageOf(t, n.target("a"))
				restored, err := n.createFrom("restored", volume.FromSnapshot(s.ID), imageSpec(fsType),
					2*n.capacity())
				fixture.Must(t, err)
				// The copies are mounted beside the source although their filesystems have the source's UUID.
				for name, id := range map[string]volume.ID{"clone": clone, "restored": restored} {
					copied := n.other(id, "staging-"+name)
					copied.stageAndPublish(name)
					wantCounted(t, n.target(name))
				}
				wantGrown(t, before, usageOf(t, n.target("restored")), n.capacity())
				fixture.Must(t, os.WriteFile(n.target("restored/own"), nil, 0o600))
				if _, err := os.Stat(n.target("a/own")); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("the source has a file that was written to the copy: %v", err)
				}
				for name, id := range map[string]volume.ID{"clone": clone, "restored": restored} {
					n.other(id, "staging-"+name).takeDown(name)
				}
				n.takeDown("a")
			})
		}
	}
}

// A snapshot writes dirty data to the disk before it stops the writers. So they wait for a short
// time only, however much data is dirty.
func TestWritersAreNotHeldUntilWhatTheyHaveWrittenIsOnTheDisk(t *testing.T) {
	const dirty, tries = 192 * mib, 6
	n := newImageNodeOn(t, imageSpec(volume.XFS),
		filepath.Join(disks.New(t, disks.XFS, 8<<30).Dir, "pool"))
	n.stageAndPublish("a")
	defer n.takeDown("a")
	var waited []string
	// The kernel may have written the dirty data already. Then there is nothing to compare, and the
	// test tries again.
	for range tries {
		content := bytes.Repeat([]byte("dirty..."), dirty/8)
		fixture.Must(t, os.WriteFile(n.target("a/file"), content, 0o600))
		begin := time.Now()
		held := n.heldByASnapshot()
		took := time.Since(begin)
		if held > 0 && held < took/2 {
			return
		}
		waited = append(waited, fmt.Sprintf("%s of %s", held, took))
	}
	t.Errorf("the writers were stopped for %s of a snapshot: want less than half of its time", waited)
}

// heldByASnapshot takes a snapshot and deletes it. It returns for how long, according to the log,
// writers were stopped.
func (n *imageNode) heldByASnapshot() (held time.Duration) {
	n.t.Helper()
	log := funcr.NewJSON(func(line string) {
		var said struct{ Msg, Took string }
		fixture.Must(n.t, json.Unmarshal([]byte(line), &said))
		if strings.HasPrefix(said.Msg, "The writers of a volume have waited") {
			var err error
			held, err = time.ParseDuration(said.Took)
			fixture.Must(n.t, err)
		}
	}, funcr.Options{})
	parsed, err := volume.ParseName("held")
	fixture.Must(n.t, err)
	ctx := klog.NewContext(n.t.Context(), log)
	s, err := n.pool.CreateSnapshot(ctx, volume.SnapshotRequest{Name: parsed, Source: n.id})
	fixture.Must(n.t, err)
	fixture.Must(n.t, n.pool.DeleteSnapshot(ctx, s.ID))
	return held
}

func TestCopiesOfImagesKeepTheirKind(t *testing.T) {
	n := newImageNode(t, imageSpec(volume.Ext4))
	s, err := n.snapshot()
	fixture.Must(t, err)
	block := volume.Spec{
		Type:       volume.DirectoryOrCreate,
		Backing:    volume.ImageBacking,
		Allocation: volume.Sparse,
	}
	for name, spec := range map[string]volume.Spec{
		"directory": {Type: volume.DirectoryOrCreate, Mode: 0o755},
		"block":     block,
		"xfs":       imageSpec(volume.XFS),
	} {
		for _, source := range []volume.Source{volume.FromVolume(n.id), volume.FromSnapshot(s.ID)} {
			if _, err := n.createFrom(name, source, spec, 1<<30); !errors.Is(err, volume.ErrInvalid) {
				t.Errorf("%s from %s: %v, want ErrInvalid", name, source, err)
			}
		}
	}
	preallocated := imageSpec(volume.Ext4)
	preallocated.Allocation = volume.Preallocated
	id, err := n.createFrom("preallocated", volume.FromSnapshot(s.ID), preallocated, 0)
	fixture.Must(t, err)
	image, err := volumeOf(n.t, n.pool, id).OpenImage()
	fixture.Must(t, err)
	defer image.Close()
	var st unix.Stat_t
	fixture.Must(t, unix.Fstat(int(image.Fd()), &st))
	if st.Blocks*512 < st.Size {
		t.Errorf("a preallocated copy of %d bytes takes %d", st.Size, st.Blocks*512)
	}
	copied := n.other(id, "staging-copy") // the source had no filesystem yet, so the copy gets its own
	copied.stageAndPublish("a")
	copied.takeDown("a")
}

func TestBlockVolumeUnderAPodIsCopiedAtOnceOrNotAtAll(t *testing.T) {
	block := volume.Spec{
		Type:       volume.DirectoryOrCreate,
		Backing:    volume.ImageBacking,
		Allocation: volume.Sparse,
	}
	for _, poolOn := range []string{disks.Ext4, disks.XFS, disks.Btrfs} {
		t.Run(poolOn, func(t *testing.T) {
			n := newImageNodeOn(t, block, filepath.Join(disks.New(t, poolOn, 0).Dir, "pool"))
			fixture.Must(t, n.publishBlock("a"))
			f := openDevice(t, n.target("a"))
			_, err := f.WriteAt([]byte("precious"), 0) // in the device's cache only
			fixture.Must(t, err)
			_, err = n.snapshot()
			if poolOn == disks.Ext4 {
				wantCode(t, err, codes.FailedPrecondition)
				fixture.Must(t, f.Close())
				fixture.Must(t, n.unpublish(t, n.id, "a"))
				_, err = n.snapshot()
			}
			fixture.Must(t, err)
			if poolOn != disks.Ext4 {
				_, err := f.WriteAt([]byte("changed!"), 0)
				fixture.Must(t, errors.Join(err, f.Sync(), f.Close()))
				fixture.Must(t, n.unpublish(t, n.id, "a"))
			}
			s, err := n.snapshot()
			fixture.Must(t, err)
			id, err := n.createFrom("restored", volume.FromSnapshot(s.ID), block, 2*n.capacity())
			fixture.Must(t, err)
			restored := n.other(id, "staging-restored")
			fixture.Must(t, restored.publishBlock("b"))
			g := openDevice(t, n.target("b"))
			got := make([]byte, 8)
			if _, err := g.ReadAt(got, 0); string(got) != "precious" || err != nil ||
				deviceSize(t, g) != 2*n.capacity() {
				t.Errorf("the copy has %q, %v, and %d bytes", got, err, deviceSize(t, g))
			}
			fixture.Must(t, g.Close())
			fixture.Must(t, restored.unpublish(t, id, "b"))
			restored.wantDetached(id)
		})
	}
}

func TestFilesystemThatACrashLeftFrozenIsThawedAtTheStart(t *testing.T) {
	n := newImageNode(t, imageSpec(volume.XFS))
	n.stageAndPublish("a")
	root, err := os.Open(n.target("staging"))
	fixture.Must(t, err)
	fixture.Must(t, errors.Join(filesystem.Freeze(root), root.Close()))
	_, err = n.snapshot()
	wantCode(t, err, codes.Aborted)
	n.restart(t)
	fixture.Must(t, staging.Reconcile(t.Context(), n.pool, n.Limiter, n.Publications.Targets))
	fixture.Must(t, os.WriteFile(n.target("a/file"), nil, 0o600))
	_, err = n.snapshot()
	fixture.Must(t, err)
	n.takeDown("a")
}

func TestImageIsNotAttachedWhileACopyOfItTakesItsTime(t *testing.T) {
	n := newImageNode(t, imageSpec(volume.XFS))
	for range 2 { // the first staging would also make the filesystem
		locked, err := volumeOf(n.t, n.pool, n.id).Lock()
		fixture.Must(t, err)
		wantCode(t, n.stage(), codes.Aborted)
		locked.Unlock()
		n.stageAndPublish("a")
		n.takeDown("a")
	}
	n.stageAndPublish("a")
	n.takeDown("a")
	if d, err := loopdev.Find(mustImage(n), loopdev.ReadWrite); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v, %v", d, err)
	}
}

func mustImage(n *imageNode) *os.File {
	n.t.Helper()
	f, err := volumeOf(n.t, n.pool, n.id).OpenImage()
	fixture.Must(n.t, err)
	n.t.Cleanup(func() { f.Close() })
	return f
}
