package main

import (
	"bytes"
	"compress/zlib"
	"crypto/sha1" //nolint:gosec // git's packs end with it
	"encoding/binary"
	"fmt"
	"hash/adler32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
)

// pack builds a pack byte by byte, also one that git refuses to make (gitformat-pack(5)).
type pack struct {
	body  bytes.Buffer
	count uint32
}

// offset is that of the next entry.
func (p *pack) offset() int64 { return packHeader + int64(p.body.Len()) }

// add adds an object as it should be.
func (p *pack) add(kind plumbing.ObjectType, content []byte) plumbing.Hash {
	p.entry(kind, int64(len(content)), nil, deflated(content))
	return plumbing.ComputeHash(kind, content)
}

func (p *pack) blob(content string) plumbing.Hash {
	return p.add(plumbing.BlobObject, []byte(content))
}

// delta adds a delta. Its base is an offset (before) or a hash.
func (p *pack) delta(base, instructions []byte) {
	kind := plumbing.OFSDeltaObject
	if len(base) == len(plumbing.Hash{}) {
		kind = plumbing.REFDeltaObject
	}
	p.entry(kind, int64(len(instructions)), base, deflated(instructions))
}

// entry adds what may not be an object: the size and the content need not agree.
func (p *pack) entry(kind plumbing.ObjectType, size int64, base, content []byte) {
	p.count++
	b := byte(kind)<<4 | byte(size&0xf) //nolint:gosec // of 3 bits
	for size >>= 4; size > 0; size >>= 7 {
		p.body.WriteByte(b | 0x80)
		b = byte(size & 0x7f)
	}
	p.body.WriteByte(b)
	p.body.Write(base)
	p.body.Write(content)
}

// before is the base of a delta: the entry that begins so many bytes before it.
func before(distance int64) []byte {
	encoded := []byte{byte(distance & 0x7f)}
	for distance >>= 7; distance > 0; distance >>= 7 {
		distance--
		encoded = append([]byte{0x80 | byte(distance&0x7f)}, encoded...)
	}
	return encoded
}

// delta has the sizes of its base and of its result, and instructions.
func delta(base, result uint64, instructions ...byte) []byte {
	return append(binary.AppendUvarint(binary.AppendUvarint(nil, base), result), instructions...)
}

// bytes is the whole pack.
func (p *pack) bytes() []byte { return sealed(p.count, p.body.Bytes()) }

// sealed has a header that says how many objects there are, and a checksum.
func sealed(count uint32, body []byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte("PACK\x00\x00\x00\x02"), count)
	b = append(b, body...)
	sum := sha1.Sum(b) //nolint:gosec // as said
	return append(b, sum[:]...)
}

func deflated(content []byte) []byte {
	var b bytes.Buffer
	w := zlib.NewWriter(&b)
	_, _ = w.Write(content) // to memory
	_ = w.Close()
	return b.Bytes()
}

// zeroes adds an object that has that many MiB of zeroes after its start. It takes no time to
// deflate: the blocks of one MiB are repeated.
func (p *pack) zeroes(kind plumbing.ObjectType, start []byte, mib int) plumbing.Hash {
	size := int64(len(start) + mib<<20)
	hasher, sum := plumbing.NewHasher(kind, size), adler32.New()
	content := io.MultiWriter(hasher, sum)
	var b bytes.Buffer
	w := zlib.NewWriter(&b)
	_, _ = io.MultiWriter(w, content).Write(start) // to memory, as all of them
	_ = w.Flush()                                  // the blocks end at a byte
	z := bytes.Clone(b.Bytes())
	b.Reset()
	mebibyte := make([]byte, 1<<20)
	single := zlib.NewWriter(&b)
	_, _ = single.Write(mebibyte)
	_ = single.Flush()
	const header = 2
	for range mib {
		_, _ = content.Write(mebibyte)
		z = append(z, b.Bytes()[header:]...)
	}
	z = append(z, 1, 0, 0, 0xff, 0xff) // the last block is empty
	p.entry(kind, size, nil, binary.BigEndian.AppendUint32(z, sum.Sum32()))
	return hasher.Sum()
}

// item is an entry of a tree object.
type item struct {
	mode, name string
	hash       plumbing.Hash
}

func treeObject(items ...item) []byte {
	var b bytes.Buffer
	for _, i := range items {
		fmt.Fprintf(&b, "%s %s\x00%s", i.mode, i.name, i.hash[:])
	}
	return b.Bytes()
}

func (p *pack) tree(items ...item) plumbing.Hash {
	return p.add(plumbing.TreeObject, treeObject(items...))
}

func commitObject(tree plumbing.Hash, message string) []byte {
	const who = "a <a@example.com> 0 +0000"
	return fmt.Appendf(nil, "tree %s\nauthor %s\ncommitter %s\n\n%s\n", tree, who, who, message)
}

func (p *pack) commit(tree plumbing.Hash) plumbing.Hash {
	return p.add(plumbing.CommitObject, commitObject(tree, "x"))
}

func (p *pack) tag(kind plumbing.ObjectType, of plumbing.Hash) plumbing.Hash {
	return p.add(plumbing.TagObject, fmt.Appendf(nil,
		"object %s\ntype %s\ntag t\ntagger a <a@example.com> 0 +0000\n\nx\n", of, kind))
}

// A pack of this test's must be one that git takes: then the ones that it refuses differ from it in
// what they are meant to differ in only.
func TestPackIsOneOfGit(t *testing.T) {
	var p pack
	base := p.offset()
	blob := p.blob("a good file")
	distance := p.offset() - base
	p.delta(before(distance), delta(11, 6, 0x90, 6))
	first := plumbing.ComputeHash(plumbing.BlobObject, []byte("a good"))
	tree := p.tree(item{"100644", "a", blob}, item{"100755", "b", first})
	commit := p.commit(tree)
	tag := p.tag(plumbing.CommitObject, commit)
	r := newRepository(t)
	r.gitIn(p.bytes(), "index-pack", "--strict", "--stdin")
	r.git("update-ref", "refs/tags/t", tag.String())
	if got := r.git("show", "t:a") + r.git("show", "t:b"); got != "a good filea good" {
		t.Errorf("the files have %q", got)
	}
	r.git("fsck", "--strict")
}

// The index of a pack is that of git, byte for byte: with deltas by offset and by hash, in chains
// and with branches.
func TestIndexIsThatOfGit(t *testing.T) {
	r := newRepository(t)
	text := strings.Repeat("a line of some length\n", 500)
	for i := range 12 {
		files := map[string]string{"empty": ""}
		for j := range 4 {
			files[fmt.Sprintf("d%d/file", j)] = fmt.Sprint(i/(j+1), text[:10_000-50*i], i)
		}
		r.commit(files)
	}
	r.git("tag", "-a", "-m", "x", "t")
	for _, args := range [][]string{{"--delta-base-offset"}, {}, {"--depth=0"}} {
		path := filepath.Join(t.TempDir(), "pack")
		args = append([]string{"pack-objects", "--quiet", "--all", "--no-reuse-delta"}, args...)
		name := path + "-" + r.git(append(args, path)...)
		got := indexOf(t, name+".pack")
		want, err := os.ReadFile(name + ".idx")
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%v: the index of %d objects is not git's, %v", args, len(want)/32, err)
		}
		hasChain := strings.Contains(r.git("verify-pack", "-v", name+".idx"), "chain length = 2")
		if hasChain == slices.Contains(args, "--depth=0") {
			t.Errorf("%v: a chain of deltas: %v", args, hasChain)
		}
	}
}

func indexOf(t *testing.T, pack string) []byte {
	t.Helper()
	file, err := os.Open(pack)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	index, err := indexPack(file)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := index.write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
