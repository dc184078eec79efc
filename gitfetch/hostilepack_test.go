package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/csi-hostpath/csi-hostpath/pkg/gitwire"
)

// withBlob is a repository with one file, whose blob is added by the function.
func withBlob(add func(p *pack) plumbing.Hash) served {
	var p pack
	commit := p.commit(p.tree(item{"100644", "file", add(&p)}))
	return head(commit, p.bytes())
}

// ofBlob changes the pack of a repository with one file.
func ofBlob(change func(whole []byte) []byte) served {
	s := withBlob(func(p *pack) plumbing.Hash { return p.blob("content") })
	s.pack = change(s.pack)
	return s
}

// withDelta has a blob of 11 bytes and a delta of it; the file is what the delta should make.
func withDelta(result string, instructions []byte) served {
	return withBlob(func(p *pack) plumbing.Hash {
		base := p.offset()
		p.blob("a good file")
		p.delta(before(p.offset()-base), instructions)
		return plumbing.ComputeHash(plumbing.BlobObject, []byte(result))
	})
}

// naming is a repository whose HEAD is what the function returns.
func naming(add func(p *pack, commit plumbing.Hash) plumbing.Hash) served {
	var p pack
	hash := add(&p, p.commit(p.tree(item{"100644", "file", p.blob("content")})))
	return head(hash, p.bytes())
}

// chain is a blob of zeroes, and deltas that make it 16 times as large each.
func chain(deltas int) served {
	return withBlob(func(p *pack) plumbing.Hash {
		size, last := uint64(1<<16), p.offset()
		p.blob(strings.Repeat("\x00", 1<<16))
		for range deltas {
			at := p.offset()
			var instructions []byte
			for range 16 {
				// From 0, and 3 bytes of the size, which goes to 16 MiB.
				part := uint32(min(size, 1<<24-1))
				instructions = append(instructions, 0xf0)
				instructions = append(instructions, binary.LittleEndian.AppendUint32(nil, part)[:3]...)
			}
			next := 16 * min(size, 1<<24-1)
			p.delta(before(at-last), delta(size, next, instructions...))
			size, last = next, at
		}
		return plumbing.ZeroHash
	})
}

// deep is a directory in a directory, and so on.
func deep(depth int) served {
	var p pack
	tree := p.tree(item{"100644", "file", p.blob("content")})
	for range depth {
		tree = p.tree(item{"40000", "d", tree})
	}
	return head(p.commit(tree), p.bytes())
}

// treeBomb has ten directories with ten directories each, and so on, in a pack of one KiB.
func treeBomb() served {
	var p pack
	entry := item{"100644", "f", p.blob("")}
	for range 10 {
		var items []item
		for i := range 10 {
			items = append(items, item{entry.mode, fmt.Sprint("f", i), entry.hash})
		}
		entry = item{"40000", "d", p.tree(items...)}
	}
	return head(p.commit(entry.hash), p.bytes())
}

// cycle has two deltas, each of which makes what the other one is based on.
func cycle() served {
	return withBlob(func(p *pack) plumbing.Hash {
		one := plumbing.ComputeHash(plumbing.BlobObject, []byte("1"))
		two := plumbing.ComputeHash(plumbing.BlobObject, []byte("2"))
		p.delta(one[:], delta(1, 1, 1, '2'))
		p.delta(two[:], delta(1, 1, 1, '1'))
		return one
	})
}

// twice has a blob twice, and each of the next ones as two deltas of the one before: a naive reader
// makes two to the power of that many objects.
func twice(levels byte) served {
	return withBlob(func(p *pack) plumbing.Hash {
		hash := p.blob("\x00")
		p.blob("\x00")
		for i := range levels {
			p.delta(hash[:], delta(1, 1, 1, i+1))
			p.delta(hash[:], delta(1, 1, 1, i+1))
			hash = plumbing.ComputeHash(plumbing.BlobObject, []byte{i + 1})
		}
		return hash
	})
}

func tags(n int) served {
	return naming(func(p *pack, commit plumbing.Hash) plumbing.Hash {
		tag := p.tag(plumbing.CommitObject, commit)
		for range n - 1 {
			tag = p.tag(plumbing.TagObject, tag)
		}
		return tag
	})
}

func TestHostilePacks(t *testing.T) {
	r := newRig(t)
	const mib = 1 << 20
	for i, tt := range []struct {
		what   string
		served served
		fault  gitwire.Fault // none: the tree arrives, with one file
		text   string
	}{
		{"a delta", withDelta("a good", delta(11, 6, 0x90, 6)), "", ""},
		{"a tag of a tag of a tag", tags(3), "", ""},
		{"an object twice", withBlob(func(p *pack) plumbing.Hash { p.blob("x"); return p.blob("x") }), "", ""},
		{"64 objects twice, each from the one before", twice(64), "", ""},
		{"a commit of 4 MiB", naming(func(p *pack, _ plumbing.Hash) plumbing.Hash {
			return p.add(plumbing.CommitObject,
				commitObject(p.tree(item{"100644", "file", p.blob("x")}), strings.Repeat("x", 4*mib)))
		}), "", ""},

		{"nothing", ofBlob(func([]byte) []byte { return nil }), gitwire.Malformed, "not found"},
		{"no pack", ofBlob(func([]byte) []byte { return []byte("<html>") }), gitwire.Malformed, "pack"},
		{"a header only", ofBlob(func(b []byte) []byte { return b[:packHeader] }), gitwire.Malformed, "pack"},
		{"half a pack", ofBlob(func(b []byte) []byte { return b[:len(b)/2] }), gitwire.Malformed, "pack"},
		{"no checksum", ofBlob(func(b []byte) []byte { return b[:len(b)-20] }), gitwire.Malformed, "pack"},
		{"a wrong checksum", ofBlob(func(b []byte) []byte {
			b[len(b)-1] ^= 1
			return b
		}), gitwire.Malformed, "checksum"},
		{"another version", ofBlob(func(b []byte) []byte {
			b[7] = 4
			return b
		}), gitwire.Malformed, "version"},
		{"fewer objects than said", counting(4), gitwire.Malformed, "pack"},
		{"more objects than said", counting(2), gitwire.Malformed, "pack"},
		{"no objects", counting(0), gitwire.Malformed, "pack"},
		{"four thousand million objects", counting(1<<32 - 1), gitwire.TooLarge, "4294967295 objects"},
		{"as many objects as are allowed, said only", counting(100_000), gitwire.Malformed, "pack"},

		{"an object of no type", raw(0, 7), gitwire.Malformed, "type 0"},
		{"an object of the type that is not used", raw(5, 7), gitwire.Malformed, "type 5"},
		{"a blob that is shorter than said", raw(plumbing.BlobObject, 8), gitwire.Malformed, "says 8"},
		{"a blob that is longer than said", raw(plumbing.BlobObject, 6), gitwire.Malformed, "pack"},
		{"a blob that says 1 TiB", raw(plumbing.BlobObject, 1<<40), gitwire.Malformed, "7 bytes"},
		{"a size of more than 64 bits", withBlob(func(p *pack) plumbing.Hash {
			p.count++
			p.body.WriteString("\xbf" + strings.Repeat("\xff", 12) + "\x01")
			return plumbing.ZeroHash
		}), gitwire.Malformed, "pack"},
		{"what is not deflated", withBlob(func(p *pack) plumbing.Hash {
			p.entry(plumbing.BlobObject, 7, nil, []byte("content"))
			return plumbing.ZeroHash
		}), gitwire.Malformed, "pack"},

		{"a delta without a base", withBlob(func(p *pack) plumbing.Hash {
			p.delta(bytes.Repeat([]byte{1}, 20), delta(11, 6, 0x90, 6))
			return plumbing.ZeroHash
		}), gitwire.Malformed, "pack"},
		{"a delta whose base is before the pack", withBlob(func(p *pack) plumbing.Hash {
			p.delta(before(1<<40), delta(11, 6, 0x90, 6))
			return plumbing.ZeroHash
		}), gitwire.Malformed, "pack"},
		{"a delta whose base is in another object", withBlob(func(p *pack) plumbing.Hash {
			p.blob("a good file")
			p.delta(before(3), delta(11, 6, 0x90, 6))
			return plumbing.ZeroHash
		}), gitwire.Malformed, "pack"},
		{"a delta of itself", withBlob(func(p *pack) plumbing.Hash {
			hash := plumbing.ComputeHash(plumbing.BlobObject, []byte("1"))
			p.delta(hash[:], delta(1, 1, 1, '1'))
			return hash
		}), gitwire.Malformed, "pack"},
		{"two deltas of each other", cycle(), gitwire.Malformed, "pack"},
		{"a delta of a larger base", withDelta("a good", delta(12, 6, 0x90, 6)), gitwire.Malformed, "delta"},
		{"a delta from behind its base", withDelta("", delta(11, 6, 0x91, 8, 6)), gitwire.Malformed, "delta"},
		{"a delta that makes less than it says", withDelta("a good", delta(11, 7, 0x90, 6)), gitwire.Malformed, "delta"},
		{"a delta that makes more than it says", withDelta("a good", delta(11, 5, 0x90, 6)), gitwire.Malformed, "delta"},
		{"a delta with an unknown instruction", withDelta("", delta(11, 6, 0)), gitwire.Malformed, "delta"},
		{"a delta of nothing", withDelta("", nil), gitwire.Malformed, "delta"},
		{"deltas that make 16 MiB, then 256 MiB, then 4 GiB", chain(4), gitwire.TooLarge, "memory"},
		{"5000 deltas in a chain", longChain(5000), gitwire.Malformed, "a chain of more than 4095 deltas"},

		{"a file that inflates to 65 MiB", withBlob(func(p *pack) plumbing.Hash {
			return p.zeroes(plumbing.BlobObject, nil, 65)
		}), gitwire.TooLarge, "67108864 bytes"},
		{"a tree that inflates to 65 MiB", naming(func(p *pack, _ plumbing.Hash) plumbing.Hash {
			return p.commit(p.zeroes(plumbing.TreeObject, []byte("100644 "), 65))
		}), gitwire.Malformed, ""},
		{"a commit that inflates to 65 MiB", naming(func(p *pack, _ plumbing.Hash) plumbing.Hash {
			return p.zeroes(plumbing.CommitObject, commitObject(p.tree(), "x"), 65)
		}), gitwire.TooLarge, "a commit of"},
		{"300 directories in each other", deep(300), gitwire.TooLarge, "directories deep"},
		{"ten thousand million files in a KiB", treeBomb(), gitwire.TooLarge, "10000 files and directories"},

		{"HEAD is a blob", naming(func(p *pack, _ plumbing.Hash) plumbing.Hash {
			return p.blob("x")
		}), gitwire.NotFound, "a blob and no commit"},
		{"HEAD is a tree", naming(func(p *pack, _ plumbing.Hash) plumbing.Hash {
			return p.tree()
		}), gitwire.NotFound, "a tree and no commit"},
		{"HEAD is a tag of a blob", naming(func(p *pack, _ plumbing.Hash) plumbing.Hash {
			return p.tag(plumbing.BlobObject, p.blob("x"))
		}), gitwire.NotFound, "a blob and no commit"},
		{"HEAD is a tag without an object", naming(func(p *pack, _ plumbing.Hash) plumbing.Hash {
			return p.add(plumbing.TagObject, []byte("x"))
		}), gitwire.Malformed, "tag"},
		{"100 tags of tags", tags(100), gitwire.Malformed, "more than 16"},
		{"HEAD is another commit", naming(func(*pack, plumbing.Hash) plumbing.Hash {
			return plumbing.NewHash(strings.Repeat("1", 40))
		}), gitwire.Malformed, "not found"},
		{"a commit without a tree", naming(func(p *pack, _ plumbing.Hash) plumbing.Hash {
			return p.add(plumbing.CommitObject, []byte("author a <a> 0 +0000\n\nx"))
		}), gitwire.Malformed, "commit"},
		{"a commit of a blob", naming(func(p *pack, _ plumbing.Hash) plumbing.Hash {
			return p.commit(p.blob("x"))
		}), gitwire.Malformed, ""},
		{"an empty commit", naming(func(p *pack, _ plumbing.Hash) plumbing.Hash {
			return p.add(plumbing.CommitObject, nil)
		}), gitwire.Malformed, "commit"},
		{"half a tree", naming(func(p *pack, _ plumbing.Hash) plumbing.Hash {
			whole := treeObject(item{"100644", "file", p.blob("x")})
			return p.commit(p.add(plumbing.TreeObject, whole[:len(whole)-5]))
		}), gitwire.Malformed, "tree"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			path := fmt.Sprintf("/pack%d", i)
			r.mux.Handle(path+"/", tt.served)
			dir, err := r.fetch(t, r.request(path))
			if tt.fault != "" {
				wantFault(t, err, tt.fault, tt.text)
			} else if err != nil || written(t, dir) != "file" {
				t.Errorf("the error is %v, the tree is %q", err, written(t, dir))
			}
			r.wantServing(t)
		})
	}
}

// raw is a repository whose file is an entry of 7 bytes, said to have another type or size.
func raw(kind plumbing.ObjectType, size int64) served {
	return withBlob(func(p *pack) plumbing.Hash {
		p.entry(kind, size, nil, deflated([]byte("content")))
		return plumbing.ComputeHash(plumbing.BlobObject, []byte("content"))
	})
}

// counting is a repository of three objects with another number of them in its header.
func counting(objects uint32) served {
	return ofBlob(func(b []byte) []byte { return sealed(objects, b[packHeader:len(b)-20]) })
}

// longChain has deltas of deltas.
func longChain(deltas int) served {
	return withBlob(func(p *pack) plumbing.Hash {
		last := p.offset()
		p.blob("content")
		for range deltas {
			at := p.offset()
			p.delta(before(at-last), delta(7, 7, 0x90, 7))
			last = at
		}
		return plumbing.ComputeHash(plumbing.BlobObject, []byte("content"))
	})
}
