package copytree

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

// FuzzCopyHasWhatTheSourceHas makes a tree from bytes, copies it, and compares all attributes.
func FuzzCopyHasWhatTheSourceHas(f *testing.F) {
	disks.RequireRoot(f)
	f.Add([]byte("\x00\x03dir\x01\x01f\x40\x02\x05\x01l\x02\x01s\x06\x01\x06\x07\x03\x02\x01p"))
	f.Add(
		[]byte(
			"\x00\x02\xff\n\x00\x02..\x00\x02\t \x01\x02\x00\x01\xff\xff\x05\x02-r\x04\x07\x07\x03\x03\x03",
		),
	)
	f.Add(bytes.Repeat([]byte("\x00\x01d\x01\x01f\x10\x05\x01h\x09"), 40))
	f.Fuzz(func(t *testing.T, script []byte) {
		dir := t.TempDir()
		src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
		must(t, os.Mkdir(src, 0o755))
		must(t, os.Mkdir(dst, 0o700))
		b := builder{t: t, script: script, at: src, made: []string{src}}
		b.build()
		want := stateOf(t, src)
		_, err := tryPaths(t, t.Context(), src, dst,
			Options{Workers: 3, Policy: KeepDevices, Durability: Volatile})
		must(t, err)
		wantSame(t, stateOf(t, dst), want)
	})
}

// builder reads from bytes what to make.
type builder struct {
	t      *testing.T
	script []byte
	at     string
	// made has all paths so far; a byte chooses one.
	made []string
}

func (b *builder) byte() int {
	if len(b.script) == 0 {
		return 0
	}
	first := b.script[0]
	b.script = b.script[1:]
	return int(first)
}

func (b *builder) any() string { return b.made[b.byte()%len(b.made)] }

// path reads a name of up to 15 arbitrary bytes. If the name is invalid or taken, the system call
// fails.
func (b *builder) path() string {
	n := min(b.byte()%16, len(b.script))
	name := bytes.ReplaceAll(b.script[:n], []byte("/"), []byte("%"))
	b.script = b.script[n:]
	return b.at + "/" + string(name)
}

func (b *builder) build() {
	for len(b.script) > 0 && len(b.made) < 200 {
		switch op := b.byte() % 10; op {
		case 0, 9:
			b.note(b.path(), func(path string) error { return os.Mkdir(path, 0o755) })
			if op == 0 {
				b.down()
			}
		case 1:
			b.note(b.path(), b.file)
		case 2:
			b.note(b.path(), func(path string) error { return os.Symlink(b.any(), path) })
		case 3:
			b.note(b.path(), func(path string) error {
				kinds := []uint32{unix.S_IFIFO, unix.S_IFSOCK, unix.S_IFCHR, unix.S_IFBLK}
				return unix.Mknod(path, kinds[b.byte()%len(kinds)], b.byte())
			})
		case 4:
			b.note(b.path(), func(path string) error { return unix.Link(b.any(), path) })
		case 5:
			b.at = b.any()
			b.down()
		default:
			b.decorate(b.any(), op)
		}
	}
}

// note remembers a path if it could be made.
func (b *builder) note(path string, create func(path string) error) {
	if create(path) == nil {
		b.made = append(b.made, path)
	}
}

// down goes on in the entry that was made last, or in the current one, if that is a directory; else
// in the root.
func (b *builder) down() {
	for _, path := range []string{b.made[len(b.made)-1], b.at, b.made[0]} {
		if info, err := os.Lstat(path); err == nil && info.IsDir() {
			b.at = path
			return
		}
	}
}

// file makes a file with data between holes.
func (b *builder) file(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	for range b.byte() % 4 {
		_, err := f.WriteAt(pattern(8*(1+b.byte())), int64(b.byte())*int64(b.byte())*4096)
		must(b.t, err)
	}
	if b.byte()%2 == 1 {
		must(b.t, f.Truncate(int64(b.byte())*4000))
	}
	return f.Close()
}

// decorate changes attributes, if the filesystem lets it.
func (b *builder) decorate(path string, op int) {
	switch op {
	case 6:
		mode := uint32(b.byte()<<4 | b.byte()) //nolint:gosec // a few bits
		_ = unix.Fchmodat(unix.AT_FDCWD, path, mode, 0)
	case 7:
		_ = os.Lchown(path, b.byte(), b.byte())
	default:
		name := []string{
			"user.a", "user.b", "trusted.c", capabilities,
			"system.posix_acl_access", "system.posix_acl_default",
		}[b.byte()%6]
		value := []string{netRaw, acl, "", "value"}[b.byte()%4]
		_ = unix.Lsetxattr(path, name, []byte(value), 0)
		times := []unix.Timespec{
			{Sec: int64(b.byte()) << 20, Nsec: int64(b.byte())},
			{Sec: int64(b.byte()) << 22, Nsec: int64(b.byte())},
		}
		_ = unix.UtimesNanoAt(unix.AT_FDCWD, path, times, unix.AT_SYMLINK_NOFOLLOW)
	}
}
