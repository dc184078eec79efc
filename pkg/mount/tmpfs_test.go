package mount

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const memorySize = 1 << 20

func memory() volume.Spec { return volume.Spec{Type: volume.DirectoryOrCreate, Mode: 0o777} }

func mountMemory(t *testing.T, at Target, o Options) {
	t.Helper()
	if err := Memory(
		at,
		memorySize,
		volume.Spec{Type: volume.DirectoryOrCreate, Mode: 0o2770, UID: 1000, GID: 2000},
		o,
	); err != nil {
		t.Fatal(err)
	}
}

func TestMemoryHoldsItsSizeAndNoMore(t *testing.T) {
	at := target(t, newBase(t), "target")
	mountMemory(t, at, options(t, false))
	f, err := os.Create(filepath.Join(at.String(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	n, err := f.Write(make([]byte, 2*memorySize))
	f.Close()
	if n != memorySize || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%d bytes and %v, want %d and ENOSPC", n, err, memorySize)
	}
	usage, err := Usage(at)
	if err != nil || usage.TotalBytes != memorySize || usage.UsedBytes != memorySize ||
		usage.AvailableBytes != 0 {
		t.Errorf("usage is %+v, %v", usage, err)
	}
}

// Empty files cost the kernel memory that the size does not limit.
func TestMemoryHoldsABoundedNumberOfFiles(t *testing.T) {
	at := target(t, newBase(t), "target")
	mountMemory(t, at, options(t, false))
	made := 0
	var err error
	for ; err == nil && made <= memorySize; made++ {
		err = os.WriteFile(filepath.Join(at.String(), strconv.Itoa(made)), nil, 0o600)
	}
	if !errors.Is(err, syscall.ENOSPC) || made > memorySize/bytesPerInode+spareInodes {
		t.Errorf("%d files, then %v", made, err)
	}
}

func TestMemoryHasItsModeOwnerAndFlags(t *testing.T) {
	at := target(t, newBase(t), "target")
	old := unix.Umask(0o077)
	mountMemory(t, at, options(t, false, "noexec"))
	unix.Umask(old)
	var st unix.Stat_t
	if err := unix.Stat(at.String(), &st); err != nil {
		t.Fatal(err)
	}
	if st.Mode&0o7777 != 0o2770 || st.Uid != 1000 || st.Gid != 2000 {
		t.Errorf("mode %o, owner %d:%d", st.Mode&0o7777, st.Uid, st.Gid)
	}
	wantAttributes(t, at.String(), []string{"rw", "nosuid", "nodev", "noexec"}, []string{"ro"})
	if hasNoswap(t) &&
		!slices.ContainsFunc(
			mountsAt(t, at.String())[0].SuperOptions, func(o string) bool { return o == "noswap" },
		) {
		t.Error("what is written may be swapped out")
	}
}

// hasNoswap mounts a tmpfs with noswap to see whether the kernel knows it.
func hasNoswap(t *testing.T) bool {
	t.Helper()
	dir := filepath.Join(newBase(t), "try")
	put(t, dir, emptyDir)
	return unix.Mount("tmpfs", dir, "tmpfs", 0, "noswap") == nil
}

func TestMemoryReadOnlyIsReadOnly(t *testing.T) {
	at := target(t, newBase(t), "target")
	mountMemory(t, at, options(t, true))
	wantWritable(t, at.String(), emptyDir, false)
}

func TestMemoryTwiceMountsOnceAndKeepsWhatIsWritten(t *testing.T) {
	at := target(t, newBase(t), "target")
	put(t, at.String(), emptyDir) // what a crash after mkdir has left
	mountMemory(t, at, options(t, false))
	put(t, filepath.Join(at.String(), "file"), fullFile)
	mountMemory(t, at, options(t, false))
	wantMounts(t, at.String(), 1)
	if content, err := os.ReadFile(filepath.Join(at.String(), "file")); string(
		content,
	) != fullContent {
		t.Errorf("the file has %q, %v", content, err)
	}
	for range 2 {
		if err := Unbind(at); err != nil {
			t.Fatal(err)
		}
	}
	wantAbsent(t, at.String())
}

func TestMemoryHidesNothing(t *testing.T) {
	for _, there := range []kind{fullDir, emptyFile, fullFile, linkToDir, fifo} {
		t.Run(string(there), func(t *testing.T) {
			base := newBase(t)
			at := target(t, base, "target")
			put(t, at.String(), there)
			before := treeState(t, base)
			if err := Memory(at, memorySize, memory(), options(t, false)); !errors.Is(err, volume.ErrInUse) {
				t.Errorf("%v, want ErrInUse", err)
			}
			wantMounts(t, at.String(), 0)
			wantTreeState(t, base, before)
		})
	}
}

func TestMemoryOverAnotherMountIsRefused(t *testing.T) {
	for _, tc := range []struct {
		title  string
		size   int64
		flags  []string
		isBind bool
		want   error
	}{
		{"another size", 2 * memorySize, nil, false, volume.ErrIncompatible},
		{"other flags", memorySize, []string{"noexec"}, false, volume.ErrIncompatible},
		{"another filesystem", memorySize, nil, true, volume.ErrInUse},
	} {
		t.Run(tc.title, func(t *testing.T) {
			at := target(t, newBase(t), "target")
			if tc.isBind {
				put(t, at.String(), emptyDir)
				mountByHand(t, "/proc", at.String())
			} else {
				mountMemory(t, at, options(t, false))
			}
			if err := Memory(at, tc.size, memory(), options(t, false, tc.flags...)); !errors.Is(
				err, tc.want,
			) {
				t.Errorf("%v, want %v", err, tc.want)
			}
			wantMounts(t, at.String(), 1)
		})
	}
}

func TestMoreMemoryThanTheNodeHasIsRefused(t *testing.T) {
	at := target(t, newBase(t), "target")
	err := Memory(at, 1<<60, memory(), options(t, false))
	if !errors.Is(err, volume.ErrOutOfRange) || !strings.Contains(err.Error(), "the node has") {
		t.Errorf("%v, want ErrOutOfRange", err)
	}
	wantAbsent(t, at.String())
}

func TestUsageOfWhatIsNotMountedIsNotFound(t *testing.T) {
	base := newBase(t)
	put(t, filepath.Join(base, "plain"), emptyDir)
	for _, rel := range []string{"plain", "absent", "absent/parent"} {
		if _, err := Usage(target(t, base, rel)); !errors.Is(err, volume.ErrNotFound) {
			t.Errorf("%s: %v, want ErrNotFound", rel, err)
		}
	}
}
