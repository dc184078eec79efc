package copying_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/backend/plain"
	"github.com/csi-hostpath/csi-hostpath/pkg/copytree"
	"github.com/csi-hostpath/csi-hostpath/pkg/job"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/copying"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const kib = 1 << 10

// cloning is a backend whose filesystem can copy a volume at one moment, and refuses each source.
type cloning struct {
	plain.Plain
	backend.NoCloner
}

func (cloning) Name() string { return "cloning" }

// copier returns a Copier that makes one copy at a time.
func copier(b backend.Backend) *copying.Copier {
	return &copying.Copier{
		Backend: b, Throttle: copying.NewThrottle(1, 0), Yielder: &job.CallGate{},
	}
}

func openDir(t *testing.T) openat.Dir {
	t.Helper()
	d, err := openat.OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// sourceOf returns a volume of 64 KiB with one file of that many bytes.
func sourceOf(t *testing.T, bytes int) copying.Source {
	t.Helper()
	s := copying.Source{
		Name:  volume.NewID("000000000000", volume.Name{}),
		Dir:   openDir(t),
		Bytes: 64 * kib,
		Spec: volume.Spec{
			Type: volume.DirectoryOrCreate,
			Mode: 0o755,
			UID:  uint32(os.Getuid()), //nolint:gosec // never negative
			GID:  uint32(os.Getgid()), //nolint:gosec // never negative
		},
	}
	data := filepath.Join(s.Dir.Name(), backend.Data)
	if err := os.Mkdir(data, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(data, "file"), make([]byte, bytes), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

func refuse(backend.Source) (backend.Clone, error) {
	return backend.Clone{}, errors.ErrUnsupported
}

func TestMethodFollowsFromSpecificationAndFilesystem(t *testing.T) {
	directory := volume.Spec{Type: volume.DirectoryOrCreate}
	image := volume.Spec{Type: volume.DirectoryOrCreate, Backing: volume.ImageBacking}
	for _, c := range []struct {
		name    string
		backend backend.Backend
		spec    volume.Spec
		want    copying.Method
	}{
		{"directory", plain.Plain{}, directory, copying.ByFiles},
		{"directory that can be cloned", cloning{}, directory, copying.ByFilesystem},
		{"image", plain.Plain{}, image, copying.ByImage},
		{"image on a filesystem that clones", cloning{}, image, copying.ByImage},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := copier(c.backend).MethodFor(c.spec); got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

func TestSourceThatTheFilesystemRefusesIsCopiedFileByFile(t *testing.T) {
	from, to := sourceOf(t, 10*kib), openDir(t)
	c, err := copier(cloning{}).Begin(t.Context(), copying.ByFilesystem, &copytree.Progress{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.End()
	target := copying.Target{Dir: to, Bytes: from.Bytes, Clone: refuse}
	made, err := c.Make(t.Context(), from, target)
	if err != nil {
		t.Fatal(err)
	}
	made.Data.Close()
	if made.Method != copying.ByFiles || made.Inodes != 1 || made.OccupiedBytes < 10*kib {
		t.Errorf("got %+v by method %d, want one file of 10 KiB by method %d", made, made.Method,
			copying.ByFiles)
	}
	content, err := os.ReadFile(filepath.Join(to.Name(), backend.Data, "file"))
	if err != nil || len(content) != 10*kib {
		t.Errorf("the copied file has %d bytes, %v, want 10 KiB", len(content), err)
	}
}

// A copy by the filesystem does not wait. A copy file by file waits for its turn, also if it began
// as a copy by the filesystem.
func TestOnlyCopiesThatTakeTimeWait(t *testing.T) {
	throttled, from := copier(cloning{}), sourceOf(t, kib)
	first, err := throttled.Begin(t.Context(), copying.ByFiles, &copytree.Progress{})
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := throttled.Begin(ended, copying.ByFiles, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("begin a second copy: %v, want the end of the context", err)
	}
	c, err := throttled.Begin(ended, copying.ByFilesystem, &copytree.Progress{})
	if err != nil {
		t.Fatalf("begin a copy by the filesystem: %v", err)
	}
	to := copying.Target{Dir: openDir(t), Bytes: from.Bytes, Clone: refuse}
	if _, err := c.Make(ended, from, to); !errors.Is(err, context.Canceled) {
		t.Errorf("copy file by file after the refusal: %v, want the end of the context", err)
	}
	c.End()
	first.End()
	last, err := throttled.Begin(t.Context(), copying.ByFiles, &copytree.Progress{})
	if err != nil {
		t.Fatal(err)
	}
	last.End()
}

func TestSourceLargerThanItsTargetIsRefused(t *testing.T) {
	from := sourceOf(t, 4<<20)
	c, err := copier(plain.Plain{}).Begin(t.Context(), copying.ByFiles, &copytree.Progress{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.End()
	for name, to := range map[string]copying.Target{
		"bytes":  {Dir: openDir(t), Bytes: 64 * kib},
		"inodes": {Dir: openDir(t), Bytes: 16 << 20, Inodes: 1},
	} {
		made, err := c.Make(t.Context(), from, to)
		if !errors.Is(err, volume.ErrOutOfRange) || made.Data != nil {
			t.Errorf("%s: %+v, %v, want ErrOutOfRange", name, made, err)
		}
	}
}

func TestSourceFitsOnlyWhatIsLikeItAndAtLeastAsLarge(t *testing.T) {
	from := copying.Source{
		Name:  volume.NewID("000000000000", volume.Name{}),
		Spec:  volume.Spec{Type: volume.DirectoryOrCreate},
		Bytes: 64 * kib,
	}
	file := volume.Spec{Type: volume.FileOrCreate}
	image := volume.Spec{Type: volume.DirectoryOrCreate, Backing: volume.ImageBacking}
	for _, c := range []struct {
		name string
		spec volume.Spec
		size volume.SizeRange
		want error
	}{
		{"any size", from.Spec, volume.SizeRange{}, nil},
		{"the same size", from.Spec, volume.SizeRange{Required: 64 * kib, Limit: 64 * kib}, nil},
		{"smaller", from.Spec, volume.SizeRange{Required: 63 * kib}, volume.ErrOutOfRange},
		{"smaller limit", from.Spec, volume.SizeRange{Limit: 63 * kib}, volume.ErrOutOfRange},
		{"another type", file, volume.SizeRange{}, volume.ErrInvalid},
		{"another backing", image, volume.SizeRange{}, volume.ErrInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := from.CheckFits(c.spec, c.size); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}
