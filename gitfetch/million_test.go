package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/csi-hostpath/csi-hostpath/pkg/gitwire"
)

// forest has directories with many files each, whose contents are few. The first file of each
// directory has the content that is given.
func forest(dirs, files int, first string) (served, plumbing.Hash) {
	var p pack
	var blobs [16]plumbing.Hash
	for i := range blobs {
		blobs[i] = p.blob(fmt.Sprint("content ", i))
	}
	var root []item
	for d := range dirs {
		items := []item{{"100644", "a", p.blob(fmt.Sprint(first, d))}}
		for f := range files - 1 {
			name := fmt.Sprintf("d%04d-file-%07d.html", d, f)
			items = append(items, item{"100644", name, blobs[(d+f)%len(blobs)]})
		}
		root = append(root, item{"40000", fmt.Sprintf("directory-%04d", d), p.tree(items...)})
	}
	commit := p.commit(p.tree(root...))
	return head(commit, p.bytes()), commit
}

// countEntries fetches, and counts the entries that have a content, those that the base has, and
// the others.
func (r *rig) countEntries(t testing.TB, q gitwire.Request) (files, same, others int) {
	t.Helper()
	f, err := gitwire.Fetch(t.Context(), r.socket, q)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	archive := tar.NewReader(f.Archive)
	for {
		h, err := archive.Next()
		switch {
		case errors.Is(err, io.EOF):
			return files, same, others
		case err != nil:
			t.Fatal(err)
		case h.Typeflag == tar.TypeReg:
			files++
		case h.Typeflag == tar.TypeLink && h.Linkname == h.Name:
			same++
		default:
			others++
		}
	}
}

// The least memory suffices for a tree of any size, also for the comparison with a base. A tree of
// one entry too many is refused.
func TestMemoryDoesNotGrowWithTheTree(t *testing.T) {
	r := newRig(t)
	o := testOptions(t.TempDir())
	o.memory = 128 << 20
	r.socket = startFetcher(t, o)
	const dirs, files = 80, 1000
	before, base := forest(dirs, files, "first ")
	after, _ := forest(dirs, files, "second ")
	now := before
	r.mux.HandleFunc("/forest/", func(w http.ResponseWriter, q *http.Request) { now.ServeHTTP(w, q) })
	q := r.request("/forest")
	q.Limits.Entries = dirs*files + dirs
	if f, same, others := r.countEntries(t, q); f != dirs*files || same != 0 || others != dirs {
		t.Errorf("the tree has %d files, %d of the base, %d others", f, same, others)
	}
	now, q.Base = after, base.String()
	if f, same, others := r.countEntries(t, q); f != dirs || same != dirs*(files-1) || others != dirs {
		t.Errorf("after a push the tree has %d files, %d of the base, %d others", f, same, others)
	}
	q.Base = ""
	q.Limits.Entries--
	_, err := r.fetch(t, q)
	wantFault(t, err, gitwire.TooLarge, "more than 80079 files")
}

// A million files with the chart's memory. (docs/git.md has what it costs.)
func BenchmarkMillionFiles(b *testing.B) {
	r := newRig(b)
	o := testOptions(b.TempDir())
	o.memory, o.jobs = 512<<20, 2
	r.socket = startFetcher(b, o)
	for _, shape := range []struct{ dirs, files int }{{999, 1000}, {1, 999_999}} {
		repository, _ := forest(shape.dirs, shape.files, "first ")
		path := fmt.Sprintf("/%d", shape.dirs)
		r.mux.Handle(path+"/", repository)
		q := r.request(path)
		q.Limits = gitwire.Limits{
			PackBytes: 64 << 20, Objects: 4_000_000, TreeBytes: 1 << 30, Entries: 1_000_000,
			Time: 10 * time.Minute,
		}
		b.Run(fmt.Sprintf("%dx%d", shape.dirs, shape.files), func(b *testing.B) {
			for b.Loop() {
				if files, _, _ := r.countEntries(b, q); files != shape.dirs*shape.files {
					b.Errorf("%d files have arrived", files)
				}
			}
		})
	}
}
