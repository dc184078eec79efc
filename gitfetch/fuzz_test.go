package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"

	"github.com/csi-hostpath/csi-hostpath/pkg/gitwire"
)

// FuzzTree: a tree object is read as go-git reads it, or refused.
func FuzzTree(f *testing.F) {
	hash := plumbing.ComputeHash(plumbing.BlobObject, nil)
	f.Add([]byte{})
	f.Add(treeObject(item{"100644", "a", hash}, item{"40000", "b", hash}, item{"120000", "c", hash}))
	f.Add(treeObject(item{"0", "", hash}, item{"160000", "../x", hash}, item{"37777777777", "y", hash}))
	f.Add(treeObject(item{"100755", "whole", hash})[:20])
	f.Fuzz(func(t *testing.T, content []byte) {
		var want object.Tree
		o := &plumbing.MemoryObject{}
		o.SetType(plumbing.TreeObject)
		_, _ = o.Write(content) // to memory
		wantErr := want.Decode(o)
		r := newTreeReader(io.NopCloser(bytes.NewReader(content)))
		for i := 0; ; i++ {
			e, err := r.next()
			if errors.Is(err, io.EOF) {
				if wantErr != nil || i != len(want.Entries) {
					t.Errorf("%d entries, want %d, %v", i, len(want.Entries), wantErr)
				}
				return
			}
			if err != nil {
				wantMalformed(t, err, wantErr)
				return
			}
			if e.name == "" {
				return // is refused later; go-git refuses it here
			}
			if i >= len(want.Entries) || want.Entries[i] != (object.TreeEntry{
				Name: e.name, Mode: e.mode, Hash: e.hash,
			}) {
				t.Fatalf("entry %d is %+v, want %+v", i, e, want.Entries)
			}
		}
	})
}

// wantMalformed: the reader has a bound that go-git has not.
func wantMalformed(t *testing.T, err, wantErr error) {
	t.Helper()
	known, ok := errors.AsType[*gitwire.Error](err)
	if !ok || known.Fault != gitwire.Malformed {
		t.Errorf("the error is %v", err)
	}
	if wantErr == nil && !strings.Contains(err.Error(), "more than 8192 bytes") {
		t.Errorf("the error is %v, and go-git reads the tree", err)
	}
}

// FuzzPack: whatever a pack has, it is stored or refused, and what was stored can be read or not.
func FuzzPack(f *testing.F) {
	for _, s := range []served{
		ofBlob(func(b []byte) []byte { return b }), tags(2), deep(3), cycle(),
		withDelta("a good", delta(11, 6, 0x90, 6)), longChain(3), counting(7),
	} {
		f.Add(s.pack[packHeader-1], s.pack[packHeader:len(s.pack)-20])
	}
	f.Fuzz(func(t *testing.T, count byte, body []byte) {
		whole := sealed(uint32(count), body)
		if isLarge(whole) {
			return
		}
		dir, err := os.MkdirTemp("/dev/shm", "gitfetch") //nolint:usetesting // many, and in memory
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.RemoveAll(dir) }()
		s, err := openStore(t.Context(), dir, gitwire.Request{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.close()
		limits := gitwire.Limits{PackBytes: 1 << 20, Objects: 100, TreeBytes: 1 << 20, Entries: 100}
		p := &boundedPack{from: bytes.NewReader(whole), limits: limits}
		if err := s.store(p); err != nil {
			known, ok := errors.AsType[*gitwire.Error](err)
			if !ok || known.Fault == gitwire.Internal {
				t.Errorf("the error is %v", err)
			}
			return
		}
		readAll(t, s, limits)
	})
}

// isLarge: the kernel bounds the memory of the program, not that of this test.
func isLarge(whole []byte) bool {
	scanner := packfile.NewScanner(bytes.NewReader(whole))
	_, objects, err := scanner.Header()
	for range objects {
		if err != nil {
			return false
		}
		var h *packfile.ObjectHeader
		if h, err = scanner.NextObjectHeader(); err == nil && h.Length > 1<<20 {
			return true
		}
	}
	return false
}

// readAll reads what a pack has as if a server had named it.
func readAll(t *testing.T, s *store, limits gitwire.Limits) {
	t.Helper()
	objects, err := s.IterEncodedObjects(plumbing.AnyObject)
	if err != nil {
		return
	}
	_ = objects.ForEach(func(o plumbing.EncodedObject) error {
		commit, err := s.peel(o.Hash())
		if err != nil {
			return nil //nolint:nilerr // it is no commit
		}
		r := gitwire.Request{Limits: limits, Base: commit.String()}
		tree, err := readTree(t.Context(), s, commit, r)
		if err != nil {
			return nil //nolint:nilerr // it has no tree
		}
		_, _ = tree.send(io.Discard)
		return nil
	})
}

// FuzzRefs: whatever a server says of its refs, what is fetched is of one of them, or was asked
// for.
func FuzzRefs(f *testing.F) {
	hash := plumbing.ComputeHash(plumbing.BlobObject, nil).String()
	for _, text := range []string{
		refs(hash, "refs/heads/main"), refs(hash, "refs/tags/main^{}"), service + flush, "0000",
		service + pkt("ERR no"), service + pkt(hash+" refs/heads/main\x00object-format=sha256") + flush,
		service + pkt(hash+" HEAD\x00") + pkt("shallow "+hash) + flush,
		service + pkt(plumbing.ZeroHash.String()+" capabilities^{}\x00") + flush,
	} {
		f.Add([]byte(text), "main")
		f.Add([]byte(text), "")
	}
	f.Fuzz(func(t *testing.T, text []byte, ref string) {
		if checkRef(ref) != nil {
			return
		}
		advertised := packp.NewAdvRefs()
		if err := advertised.Decode(bytes.NewReader(text)); err != nil {
			return
		}
		found, err := resolve(advertised, ref)
		known, ok := errors.AsType[*gitwire.Error](err)
		switch {
		case err != nil && (!ok || known.Fault != gitwire.NotFound && known.Fault != gitwire.Refused):
			t.Errorf("the error is %v", err)
		case err == nil && !says(advertised, found) && !strings.EqualFold(ref, found.String()):
			t.Errorf("%s is of no ref", found)
		}
	})
}

func says(refs *packp.AdvRefs, hash plumbing.Hash) bool {
	if refs.Head != nil && *refs.Head == hash {
		return true
	}
	for _, some := range []map[string]plumbing.Hash{refs.References, refs.Peeled} {
		for _, said := range some {
			if said == hash {
				return true
			}
		}
	}
	return false
}

// FuzzAnswer: an answer to git-upload-pack ends, whatever it is.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(nak+"PACK"), "")
	f.Add([]byte(nak+pkt("\x01PACK")+pkt("\x02counting")+pkt("\x03no")+flush), "side-band-64k")
	f.Add([]byte(pkt("shallow 1111111111111111111111111111111111111111")+flush+nak), "shallow")
	f.Add([]byte(pkt("ACK 1111111111111111111111111111111111111111\n")+nak+pkt("\x01P")), "side-band")
	f.Fuzz(func(_ *testing.T, text []byte, supported string) {
		request := packp.NewUploadPackRequest()
		if request.Capabilities.Set(capability.Capability(supported)) == nil && supported == "shallow" {
			request.Depth = packp.DepthCommits(1)
		}
		answer := packp.NewUploadPackResponse(request)
		if answer.Decode(io.NopCloser(bytes.NewReader(text))) != nil {
			return
		}
		_, _ = io.Copy(io.Discard, packOf(request, answer))
	})
}

// FuzzRequest: whatever a request has, a session is with a server of http, https or ssh, and no
// secret goes over http.
func FuzzRequest(f *testing.F) {
	f.Add(`{"url":"https://git.example.com/a/b","ref":"main","credentials":{"password":"x"}}`)
	f.Add(`{"url":"http://git.example.com/a/b","ref":"refs/heads/a..b","credentials":{"password":"x"}}`)
	f.Add(`{"url":"ssh://git@git.example.com:22/a/b","subPath":"../x","addresses":["10.0.0.0/8"]}`)
	f.Add(`{"url":"git.example.com:a/b","limits":{"time":-1}}`)
	f.Add(`{"url":"http:"}`)
	f.Add(`{"url":"https://x:y@git.example.com/a","base":"1111111111111111111111111111111111111111"}`)
	f.Fuzz(func(t *testing.T, line string) {
		var r gitwire.Request
		in := bufio.NewReader(strings.NewReader(line + "\n"))
		if gitwire.ReadMessage(in, gitwire.MaxRequest, &r) != nil || r.Credentials.PrivateKey != "" {
			return
		}
		r.Limits.Time = time.Second
		_ = checkRef(r.Ref)
		if _, err := newSession(t.Context(), r, testOptions("")); err != nil {
			return
		}
		scheme, _, _ := strings.Cut(strings.ToLower(r.URL), "://")
		if scheme != "https" && (scheme != "http" || r.Credentials.Password != "") {
			t.Errorf("a session with %q", r.URL)
		}
	})
}
