// Package fuse has a filesystem of this process (FUSE) that stops answering, or dies, when a test
// says so. It speaks the kernel's protocol itself (linux/fuse.h): a library would answer.
package fuse

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

// Dirs are the directories of a filesystem, which are empty.
func Dirs() []string { return []string{"sub", "mount"} }

// File is the name of a file of FileBytes zeroes.
const (
	File      = "file"
	FileBytes = 1 << 20
)

// Server is a mounted filesystem.
type Server struct {
	device *os.File
	ended  chan struct{}
	// isOverdue: it has died because the time of all tests was over.
	isOverdue atomic.Bool

	mu      sync.Mutex
	hanging bool
	waiting [][]byte // questions without answers
	asked   int
}

// beforeDeadline is how long before the end of the time of all tests a filesystem dies by itself: a
// process that waits for its answer cannot be killed (request_wait_answer in fs/fuse/dev.c), and
// so neither could the test.
const beforeDeadline = 30 * time.Second

// Mount mounts a filesystem on an existing directory. At the end of the test the filesystem dies
// and is unmounted, so nobody waits for it any longer.
func Mount(t *testing.T, dir string) *Server {
	t.Helper()
	s := mount(t, dir, "user_id=0,group_id=0,allow_other")
	s.refusePoll(t, dir)
	return s
}

// MountOfUser mounts a filesystem as a user does, who forgets that others need allow_other: it does
// not let root in.
func MountOfUser(t *testing.T, dir string) *Server {
	t.Helper()
	return mount(t, dir, "user_id=1234,group_id=1234")
}

func mount(t *testing.T, dir, user string) *Server {
	t.Helper()
	disks.RequireRoot(t)
	node := deviceNode(t)
	fd, err := unix.Open(node, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,%s", fd, user)
	if err := unix.Mount("test", dir, "fuse.test", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		unix.Close(fd)
		t.Fatal(err)
	}
	s := &Server{device: os.NewFile(uintptr(fd), node), ended: make(chan struct{})}
	go s.serve()
	t.Cleanup(func() {
		s.Die()
		_ = unix.Unmount(dir, unix.MNT_DETACH) // the test may have done that
	})
	if deadline, ok := t.Deadline(); ok {
		timer := time.AfterFunc(time.Until(deadline)-beforeDeadline, func() {
			s.isOverdue.Store(true)
			s.Die()
		})
		t.Cleanup(func() { timer.Stop() })
	}
	return s
}

// refusePoll lets the kernel learn that the filesystem has no poll(2). The Go runtime adds each
// file that it opens to epoll, for which the kernel would ask this process while the runtime waits.
func (s *Server) refusePoll(t *testing.T, dir string) {
	t.Helper()
	fd, err := unix.Open(filepath.Join(dir, File), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}} //nolint:gosec // small
	if _, err := unix.Poll(fds, 0); err != nil {
		t.Fatal(err)
	}
}

// deviceNode is /dev/fuse or, in a container that has none, a node of the test's own.
func deviceNode(t *testing.T) string {
	t.Helper()
	const node = "/dev/fuse"
	if _, err := os.Stat(node); err == nil {
		return node
	}
	own := filepath.Join(t.TempDir(), "fuse")
	number := int(unix.Mkdev(10, 229)) //nolint:gosec // small
	if err := unix.Mknod(own, unix.S_IFCHR|0o600, number); err != nil {
		t.Fatal(err)
	}
	return own
}

// Hang stops answering. The kernel's questions are still read, so who has asked one waits
// uninterruptibly.
func (s *Server) Hang() { s.setHanging(true) }

// Answer answers again, first what was asked meanwhile.
func (s *Server) Answer() {
	s.setHanging(false)
	for _, question := range s.takeWaiting() {
		s.answer(question)
	}
}

func (s *Server) setHanging(hanging bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hanging = hanging
	s.asked = 0
}

func (s *Server) takeWaiting() [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting := s.waiting
	s.waiting = nil
	return waiting
}

// Asked is how many questions have been asked since Hang or Answer.
func (s *Server) Asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// WantAlive fails a test that has waited for a filesystem until its time was over.
func (s *Server) WantAlive(t *testing.T) {
	t.Helper()
	if s.isOverdue.Load() {
		t.Error("somebody has waited for the filesystem until it died")
	}
}

// Die ends the filesystem: from now on, and for all who wait, every question fails (ENOTCONN).
func (s *Server) Die() {
	_ = s.device.Close() // a second time it is closed already
	<-s.ended
}

// Operations of linux/fuse.h, and what is known of them here.
const (
	opLookup      = 1
	opForget      = 2
	opGetattr     = 3
	opOpen        = 14
	opRead        = 15
	opStatfs      = 17
	opInit        = 26
	opOpendir     = 27
	opReaddir     = 28
	opReleasedir  = 29
	opInterrupt   = 36
	opBatchForget = 42

	headerBytes    = 40
	maxQuestion    = 1 << 20
	rootNode       = 1
	protocolMajor  = 7
	protocolMinor  = 31
	initReplyBytes = 64
)

func (s *Server) serve() {
	defer close(s.ended)
	question := make([]byte, maxQuestion)
	for {
		n, err := s.device.Read(question)
		switch {
		case errors.Is(err, unix.ENOENT): // the question was taken back
			continue
		case err != nil || n < headerBytes: // closed, or unmounted
			return
		}
		s.handle(question[:n])
	}
}

func (s *Server) handle(question []byte) {
	if !s.isToWait(question) {
		s.answer(question)
	}
}

// isToWait counts a question, and keeps it while the filesystem hangs.
func (s *Server) isToWait(question []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	if s.hanging {
		s.waiting = append(s.waiting, slices.Clone(question))
	}
	return s.hanging
}

func (s *Server) answer(question []byte) {
	op := binary.NativeEndian.Uint32(question[4:])
	if op == opForget || op == opBatchForget || op == opInterrupt { // they have no answer
		return
	}
	node := binary.NativeEndian.Uint64(question[16:])
	body, errno := reply(op, node, question[headerBytes:])
	out := binary.NativeEndian.AppendUint32(nil, uint32(16+len(body))) //nolint:gosec // small
	out = binary.NativeEndian.AppendUint32(out, uint32(-int32(errno))) //nolint:gosec // small
	out = append(out, question[8:16]...)                               // which question
	_, _ = s.device.Write(append(out, body...))
}

// reply is the body of an answer. Nothing may be cached: every look asks.
func reply(op uint32, node uint64, argument []byte) ([]byte, unix.Errno) {
	switch op {
	case opInit:
		body := make([]byte, initReplyBytes)
		binary.NativeEndian.PutUint32(body, protocolMajor)
		binary.NativeEndian.PutUint32(body[4:], protocolMinor)
		binary.NativeEndian.PutUint32(body[20:], 4096) // the most that is written at once
		return body, 0
	case opLookup:
		i := slices.Index(append(Dirs(), File), string(argument[:len(argument)-1]))
		if i < 0 {
			return nil, unix.ENOENT
		}
		node := uint64(rootNode + 1 + i)
		return append(binary.NativeEndian.AppendUint64(nil, node),
			append(make([]byte, 32), attributes(node)...)...), 0
	case opGetattr:
		return append(make([]byte, 16), attributes(node)...), 0
	case opStatfs:
		body := make([]byte, 80)
		for i, n := range []uint64{1000, 600, 500, 100, 60} { // blocks, free, available, files, free
			binary.NativeEndian.PutUint64(body[8*i:], n)
		}
		for i, n := range []uint32{4096, 255, 4096} { // block size, longest name, fragment size
			binary.NativeEndian.PutUint32(body[40+4*i:], n)
		}
		return body, 0
	case opRead:
		offset := binary.NativeEndian.Uint64(argument[8:])
		size := uint64(binary.NativeEndian.Uint32(argument[16:]))
		return make([]byte, min(size, FileBytes-min(offset, FileBytes))), 0
	case opOpen, opOpendir:
		return make([]byte, 16), 0
	case opReaddir, opReleasedir:
		return nil, 0
	default:
		return nil, unix.ENOSYS
	}
}

// attributes is struct fuse_attr.
func attributes(node uint64) []byte {
	body := make([]byte, 88)
	binary.NativeEndian.PutUint64(body, node)
	mode := uint32(unix.S_IFDIR | 0o755)
	if node == uint64(rootNode+1+len(Dirs())) {
		mode = unix.S_IFREG | 0o600
		binary.NativeEndian.PutUint64(body[8:], FileBytes)
	}
	binary.NativeEndian.PutUint32(body[60:], mode)
	binary.NativeEndian.PutUint32(body[64:], 2) // links
	binary.NativeEndian.PutUint32(body[80:], 4096)
	return body
}
