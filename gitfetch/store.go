package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/storage/filesystem"
	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/gitwire"
)

const (
	// maxPacks: a repository whose cache has more is fetched anew, which leaves one.
	maxPacks = 16
	// unfinishedPack is how the names of packs begin that are not whole, as git's do.
	unfinishedPack = "tmp_pack_"
	// lockInterval is how often a request tries to get a repository's lock.
	lockInterval = 100 * time.Millisecond
	// streamFrom is the size in bytes from which a blob is read from its pack piece by piece. A delta
	// is then slow: each copy from before the last one inflates the base from its start.
	streamFrom = 8 << 20
)

// store is the cache of one repository's objects. It may vanish at any time between two requests.
type store struct {
	*filesystem.Storage
	dir  string
	lock *os.File
	// hadPacks: an older fetch has left objects.
	hadPacks bool
}

// cacheName is equal for the same repository of the same server. Whoever says by what the server is
// known could have another one answer for it, which takes any secret and names a commit that only
// the cache has.
func cacheName(r gitwire.Request) string {
	sum := sha256.Sum256([]byte(strings.Join(
		[]string{r.URL, r.Credentials.Authorities, r.Credentials.KnownHosts}, "\x00")))
	return hex.EncodeToString(sum[:])
}

// openStore locks the cache of a repository: a second request for it waits.
func openStore(ctx context.Context, cacheDir string, r gitwire.Request) (*store, error) {
	dir := filepath.Join(cacheDir, cacheName(r))
	for {
		lock, err := tryLock(dir)
		if err != nil {
			return nil, err
		}
		if lock == nil {
			select {
			case <-ctx.Done():
				return nil, fault(gitwire.Unreachable, "another fetch of the repository still runs")
			case <-time.After(lockInterval):
				continue
			}
		}
		s := &store{dir: dir, lock: lock}
		if err := s.removeUnfinished(); err != nil {
			return s, err
		}
		s.open()
		packs, err := s.ObjectPacks()
		if err != nil || len(packs) > maxPacks {
			return s, s.clear()
		}
		s.hadPacks = len(packs) > 0
		return s, nil
	}
}

// tryLock makes and locks a directory, which then was used last. It returns nil if another process
// has the lock, or has just removed the directory.
func tryLock(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := os.Open(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil //nolint:nilnil // as said
	}
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) // #nosec G115 -- a descriptor
	if err == nil {
		now := time.Now()
		err = os.Chtimes(dir, now, now)
	}
	if err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, os.ErrNotExist) {
			err = nil
		}
		return nil, err
	}
	// The directory at this path may be another one by now.
	locked, err := lock.Stat()
	if err == nil {
		if there, err := os.Stat(dir); err == nil && os.SameFile(locked, there) {
			return lock, nil
		}
	}
	lock.Close()
	return nil, err
}

func (s *store) open() {
	s.Storage = filesystem.NewStorageWithOptions(osfs.New(s.dir, osfs.WithBoundOS()),
		cache.NewObjectLRU(16*cache.MiByte),
		filesystem.Options{
			LargeObjectThreshold: streamFrom, ExclusiveAccess: true, KeepDescriptors: true,
		})
}

func (s *store) close() {
	_ = s.Close() // has only read
	_ = s.lock.Close()
}

// clear removes all objects, but not the directory, which is the lock.
func (s *store) clear() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(s.dir, e.Name())))
	}
	err = errors.Join(err, s.Close())
	s.open()
	return err
}

// has tells whether the store has a commit with its tree. A fetch that was interrupted leaves no
// pack: it gets its name when it is whole.
func (s *store) has(commit plumbing.Hash) bool { return s.HasEncodedObject(commit) == nil }

const (
	// maxTags: a tag may name a tag. Git has no bound.
	maxTags = 16
	// maxCommit bounds commits and tags, in bytes: go-git takes them into memory.
	maxCommit = 8 << 20
)

// peel returns the commit that an object is, or that a tag names.
func (s *store) peel(hash plumbing.Hash) (plumbing.Hash, error) {
	at := hash
	for range maxTags {
		o, err := s.EncodedObject(plumbing.AnyObject, at)
		if err != nil {
			return at, fmt.Errorf("object %s: %w", at, err)
		}
		switch kind := o.Type(); {
		case kind != plumbing.CommitObject && kind != plumbing.TagObject:
			return at, fault(gitwire.NotFound, "the ref names %s, which is a %s and no commit", hash, kind)
		case o.Size() > maxCommit:
			return at, fault(gitwire.TooLarge, "a %s of %d bytes", kind, o.Size())
		case kind == plumbing.CommitObject:
			return at, nil
		default:
			tag, err := object.DecodeTag(s.Storage, o)
			if err != nil {
				return at, fmt.Errorf("tag %s: %w", at, err)
			}
			at = tag.Target
		}
	}
	return at, fault(gitwire.Malformed, "the ref names tag %s, which leads to more than %d others",
		hash, maxTags)
}

// receive fetches a commit.
func (s *store) receive(
	ctx context.Context, session transport.UploadPackSession, refs *packp.AdvRefs,
	commit plumbing.Hash, r gitwire.Request,
) error {
	request, err := s.ask(refs, commit, r)
	if err != nil {
		return err
	}
	answer, err := session.UploadPack(ctx, request)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Close() }()
	if err := s.updateShallow(answer.Shallows, answer.Unshallows); err != nil {
		return err
	}
	return s.store(&boundedPack{from: packOf(request, answer), limits: r.Limits})
}

// packsDir is where go-git looks for packs.
func (s *store) packsDir() string { return filepath.Join(s.dir, "objects", "pack") }

// removeUnfinished removes packs of processes that were ended: of memory, for instance.
func (s *store) removeUnfinished() error {
	unfinished, err := filepath.Glob(filepath.Join(s.packsDir(), unfinishedPack+"*"))
	for _, path := range unfinished {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}

// store stores a pack with its index, or nothing of it. A pack without a byte is none.
func (s *store) store(pack *boundedPack) error {
	if err := os.MkdirAll(s.packsDir(), 0o700); err != nil {
		return err
	}
	file, err := os.CreateTemp(s.packsDir(), unfinishedPack)
	if err != nil {
		return err
	}
	defer file.Close()
	if n, err := io.Copy(file, pack); err != nil || n == 0 {
		return errors.Join(pack.fault(err), os.Remove(file.Name()))
	}
	if err := s.keep(file); err != nil {
		return errors.Join(pack.fault(err), os.Remove(file.Name()))
	}
	// go-git has listed the packs before.
	err = s.Close()
	s.open()
	return err
}

// keep writes the index of a pack, and then gives the pack its name.
func (s *store) keep(pack *os.File) error {
	index, err := indexPack(pack)
	if err != nil {
		return err
	}
	name := filepath.Join(s.packsDir(), "pack-"+index.pack.String())
	file, err := os.Create(name + ".idx")
	if err != nil {
		return err
	}
	defer file.Close()
	if err := index.write(file); err != nil {
		return err
	}
	return os.Rename(pack.Name(), name+".pack")
}

// packOf is the pack in an answer, without what the server says to people.
func packOf(request *packp.UploadPackRequest, answer io.Reader) io.Reader {
	switch {
	case request.Capabilities.Supports(capability.Sideband64k):
		return sideband.NewDemuxer(sideband.Sideband64k, answer)
	case request.Capabilities.Supports(capability.Sideband):
		return sideband.NewDemuxer(sideband.Sideband, answer)
	default:
		return answer
	}
}

// ask says what is wanted and what is there.
func (s *store) ask(
	refs *packp.AdvRefs, commit plumbing.Hash, r gitwire.Request,
) (*packp.UploadPackRequest, error) {
	request := packp.NewUploadPackRequestFromCapabilities(refs.Capabilities)
	request.Wants = []plumbing.Hash{commit}
	if r.Depth > 0 && refs.Capabilities.Supports(capability.Shallow) {
		request.Depth = packp.DepthCommits(r.Depth)
		if err := request.Capabilities.Set(capability.Shallow); err != nil {
			return nil, err
		}
		shallow, err := s.Shallow()
		if err != nil {
			return nil, err
		}
		request.Shallows = shallow
	}
	if refs.Capabilities.Supports(capability.OFSDelta) {
		if err := request.Capabilities.Set(capability.OFSDelta); err != nil {
			return nil, err
		}
	}
	if base := plumbing.NewHash(r.Base); r.Base != "" && s.has(base) {
		request.Haves = []plumbing.Hash{base}
	}
	return request, request.Validate()
}

func (s *store) updateShallow(more, less []plumbing.Hash) error {
	if len(more)+len(less) == 0 {
		return nil
	}
	commits, err := s.Shallow()
	if err != nil {
		return err
	}
	isLess := func(h plumbing.Hash) bool { return slices.Contains(less, h) }
	commits = slices.DeleteFunc(commits, isLess)
	for _, h := range more {
		if !slices.Contains(commits, h) {
			commits = append(commits, h)
		}
	}
	return s.SetShallow(commits)
}

// packHeader is "PACK", the version and the number of objects, each of four bytes (gitformat-pack).
const packHeader = 12

// boundedPack ends a pack that exceeds its limits.
type boundedPack struct {
	from   io.Reader
	limits gitwire.Limits
	header []byte
	read   int64
	// failed is why it could not be read to its end.
	failed error
}

// fault is what an error says of the server: err is that of a pack which was not stored.
func (p *boundedPack) fault(err error) error {
	_, isDisk := errors.AsType[*fs.PathError](err)
	switch {
	case err == nil:
		return nil
	case p.failed != nil:
		return fmt.Errorf("the pack: %w", p.failed)
	case isDisk:
		return fault(gitwire.Internal, "the pack: %v", err)
	default:
		return fault(gitwire.Malformed, "the pack: %v", err)
	}
}

func (p *boundedPack) Read(b []byte) (int, error) {
	n, err := p.next(b)
	if err != nil && !errors.Is(err, io.EOF) {
		p.failed = err
	}
	return n, err
}

func (p *boundedPack) next(b []byte) (int, error) {
	n, err := p.from.Read(b)
	if missing := packHeader - len(p.header); missing > 0 {
		p.header = append(p.header, b[:min(n, missing)]...)
		if len(p.header) == packHeader {
			if objects := int64(binary.BigEndian.Uint32(p.header[8:])); objects > p.limits.Objects {
				return 0, fault(gitwire.TooLarge, "the pack has %d objects, and the limit is %d", objects,
					p.limits.Objects)
			}
		}
	}
	p.read += int64(n)
	if p.read > p.limits.PackBytes {
		return 0, fault(gitwire.TooLarge, "the pack has more than %d bytes, which is the limit",
			p.limits.PackBytes)
	}
	return n, err
}
