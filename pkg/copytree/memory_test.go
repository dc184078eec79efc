package copytree

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

// childEnv names the environment variable that makes this test binary a process that only copies:
// "SOURCE:COPY".
const childEnv = "COPYTREE_TEST_CHILD"

func TestMain(m *testing.M) {
	if paths := os.Getenv(childEnv); paths != "" {
		if err := copyAsChild(paths); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// copyAsChild copies, and prints the peak memory of the process in KiB.
func copyAsChild(paths string) error {
	from, to, _ := strings.Cut(paths, ":")
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	dst, err := os.Open(to)
	if err != nil {
		return err
	}
	if _, err := Tree(
		context.Background(),
		src,
		dst,
		Options{Workers: 4, Durability: Volatile},
	); err != nil {
		return err
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	// getrusage(2) would include the process before execve(2).
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	fmt.Println(strings.Fields(rest)[0])
	return errors.Join(src.Close(), dst.Close())
}

// A hundred thousand files, a third of them links, and ten thousand directories take as little
// memory as ten files, because nothing is queued.
func TestMemoryDoesNotGrowWithTheTree(t *testing.T) {
	const files, most = 100_000, 40 << 10 // the race detector multiplies it
	w := fixture{t: t, fstype: disks.XFS}
	dir := disks.New(t, disks.XFS, 2<<30).Dir
	memory := map[string]int{}
	for _, size := range []int{10, files} {
		name := strconv.Itoa(size)
		w.src, w.dst = filepath.Join(dir, name), filepath.Join(dir, "copy of "+name)
		must(t, os.Mkdir(w.src, 0o755))
		must(t, os.Mkdir(w.dst, 0o755))
		for i := range size {
			w.fillOne(i)
		}
		memory[name] = copyInChild(t, w.src+":"+w.dst)
	}
	t.Logf("KiB at most: %v", memory)
	if more := memory[strconv.Itoa(files)] - memory["10"]; more > most {
		t.Errorf("a large tree takes %d KiB more than a small one, want %d at most", more, most)
	}
	if got := countEntries(t, w.dst); got != files+files/10 {
		t.Errorf("the copy has %d entries, want %d", got, files+files/10)
	}
}

// fillOne makes the i-th of many entries: a file, a link, or a directory with a file.
func (w fixture) fillOne(i int) {
	w.t.Helper()
	name := "a name that is neither short nor long " + strconv.Itoa(i)
	switch {
	case i%10 == 1:
		w.mkdir(name)
		w.write(name+"/file", "")
	case i%3 == 2:
		must(w.t, os.Link(w.in("a name that is neither short nor long 0"), w.in(name)))
	default:
		w.write(name, "")
	}
}

func copyInChild(t *testing.T, paths string) int {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"="+paths)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	must(t, err)
	kib, err := strconv.Atoi(strings.TrimSpace(string(out)))
	must(t, err)
	return kib
}

func countEntries(t *testing.T, dir string) int {
	t.Helper()
	n := -1 // without the directory itself
	must(t, filepath.WalkDir(dir, func(string, os.DirEntry, error) error {
		n++
		return nil
	}))
	return n
}
