//go:build vm

package guest

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/gittree"
	"github.com/csi-hostpath/csi-hostpath/pkg/gitwire"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	// treeFiles is how many files of a tree differ from those of the last one.
	treeFiles = 20
	// repository is the directory of the tree.
	repository = "site"
)

// commit is the name of the n-th commit.
func commit(n int) string { return fmt.Sprintf("%040x", n) }

// treeOf are the files of the n-th commit. The large one is more than what is written at a time, and
// one is the same in all commits.
func treeOf(n int) map[string][]byte {
	files := map[string][]byte{
		"large": bytes.Repeat([]byte(commit(n)), largeFile/len(commit(n))), "same": []byte("same"),
	}
	for i := range treeFiles {
		files[strconv.Itoa(i)] = []byte(commit(n))
	}
	return files
}

// archiveOf is what the fetcher would send of the n-th commit to one that has the last one.
func archiveOf(t *testing.T, n int) *bytes.Buffer {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for name, text := range treeOf(n) {
		h := &tar.Header{
			Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(text)), Format: tar.FormatPAX,
		}
		if name == "same" && n > 1 {
			h.Typeflag, h.Linkname, h.Size, text = tar.TypeLink, name, 0, nil
		}
		err := w.WriteHeader(h)
		if err == nil {
			_, err = w.Write(text)
		}
		if err != nil {
			t.Error(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	return &out
}

// openTrees opens the data of the volume with trees, and the trees.
func openTrees(t *testing.T, p *pool.Pool) (*os.File, *gittree.Content, error) {
	parsed, err := volume.ParseName("trees")
	if err != nil {
		return nil, nil, err
	}
	made, err := p.Create(t.Context(), volume.CreateRequest{
		Name: parsed,
		Size: volume.SizeRange{Required: 64 << 20},
		Spec: volume.Spec{Type: volume.DirectoryOrCreate, Mode: 0o755},
	})
	if err != nil {
		return nil, nil, err
	}
	v, err := p.Get(made.ID)
	if err != nil {
		return nil, nil, err
	}
	data, err := v.Data()
	if err != nil {
		return nil, nil, err
	}
	trees, err := gittree.Open(data, repository, gittree.Options{Grace: time.Nanosecond})
	return data, trees, errors.Join(err)
}

// exchange shows one commit after the other, and notes each where it outlives the machine.
func exchange(t *testing.T, p *pool.Pool, note func(promises) error, warm func()) {
	_, trees, err := openTrees(t, p)
	if err != nil {
		t.Error(err)
		return
	}
	limits := gitwire.Limits{TreeBytes: 64 << 20, Entries: 1000}
	first := numberOf(trees.Commit()) + 1
	for n := first; ; n++ {
		err := trees.Replace(t.Context(), commit(n), trees.Commit(), limits, archiveOf(t, n))
		if err == nil {
			err = note(promises{Created: n})
		}
		if err != nil {
			t.Errorf("tree %d: %v", n, err)
			return
		}
		if n == first+warmUp {
			warm()
		}
	}
}

// numberOf is the n of commit(n); 0 if there is none.
func numberOf(commit string) int {
	n, _ := strconv.ParseInt(commit, 16, 64)
	return int(n)
}

// checkTrees wants the tree that was promised last, or the one that was under way, and the file
// that says which one it is.
func checkTrees(t *testing.T, p *pool.Pool, told promises) {
	data, trees, err := openTrees(t, p)
	if err != nil {
		t.Fatal(err)
	}
	defer data.Close()
	n := numberOf(trees.Commit())
	t.Logf("tree %d was promised, and tree %d is there", told.Created, n)
	if n != told.Created && n != told.Created+1 {
		t.Errorf("tree %d is there, and %d was promised", n, told.Created)
	}
	shown := fmt.Sprintf("/proc/self/fd/%d/content", data.Fd())
	wantFiles(t, filepath.Join(shown, repository), treeOf(n))
	said, err := os.ReadFile(filepath.Join(shown, gittree.CommitFile))
	if err != nil || string(said) != commit(n)+"\n" {
		t.Errorf("the file says %q, %v, want %s", said, err, commit(n))
	}
	if err := trees.RemoveOld(t.Context(), time.Now().Add(time.Hour)); err != nil {
		t.Error(err)
	}
	left, err := os.ReadDir(filepath.Join(shown, "../building"))
	if err != nil || len(left) > 0 {
		t.Errorf("%v, %v are left", left, err)
	}
	if err := trees.Close(); err != nil {
		t.Error(err)
	}
}

func wantFiles(t *testing.T, dir string, want map[string][]byte) {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != len(want) {
		t.Errorf("%d files, %v, want %d", len(entries), err, len(want))
	}
	for name, text := range want {
		path := filepath.Join(dir, name)
		got, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(got, text) {
			t.Errorf("%s has %d bytes, %v, want %d", name, len(got), err, len(text))
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil || fs.FileMode(st.Mode).Perm() != 0o644 {
			t.Errorf("%s: %v, mode %o", name, err, st.Mode)
		}
	}
}
