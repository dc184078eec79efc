package hostpaths

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

func TestInlineVolumeLivesWithItsPod(t *testing.T) {
	w := newWorld(t, "[]")
	for title, tc := range map[string]struct {
		v    volumeOf
		mode os.FileMode
	}{
		"default":   {inline(podA, "default"), os.ModeDir | 0o777},
		"directory": {inline(podA, "dir", "type", "DirectoryOrCreate", "size", "10Mi", "mode", "0750", "pool", "p"), os.ModeDir | 0o750},
		"file":      {inline(podA, "file", "type", "FileOrCreate", "size", "1Mi"), 0o644},
		"memory":    {inline(podA, "memory", "medium", "Memory", "size", "1Mi"), os.ModeDir | 0o777},
	} {
		t.Run(title, func(t *testing.T) {
			for range 2 {
				w.must(w.publish(tc.v))
			}
			info, err := os.Stat(w.target(tc.v))
			if err != nil || info.Mode() != tc.mode {
				t.Errorf("the target has mode %v, %v, want %v", info.Mode(), err, tc.mode)
			}
			file := w.target(tc.v)
			if info.IsDir() {
				file = filepath.Join(file, "file")
			}
			w.write(file, content)
			w.restart()
			w.must(w.publish(tc.v)) // kubelet asks again after its own restart
			w.wantContent(file, content)
			w.wantStats(tc.v)
			for range 2 {
				w.must(w.unpublish(tc.v))
			}
			w.wantNothingLeft()
		})
	}
}

func TestFullMemoryVolumeIsAnErrorToTheWriter(t *testing.T) {
	w := newWorld(t, "[]")
	v := inline(podA, "v", "medium", "Memory", "size", "1Mi")
	w.must(w.publish(v))
	err := os.WriteFile(filepath.Join(w.target(v), "file"), make([]byte, 2<<20), 0o600)
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v, want ENOSPC", err)
	}
	w.must(w.unpublish(v))
	w.wantNothingLeft()
}

func TestInlineRefusals(t *testing.T) {
	w := newWorld(t, "[]")
	for _, tc := range []struct {
		attributes []string
		code       codes.Code
		word       string
	}{
		{[]string{"medium", "Memory"}, codes.InvalidArgument, "size"},
		{[]string{"medium", "Memory", "size", "1Mi", "pool", "p"}, codes.InvalidArgument, "pool"},
		{[]string{"medium", "Memory", "size", "1Mi", "type", "FileOrCreate"}, codes.InvalidArgument, "directory"},
		{[]string{"medium", "Memory", "size", "4Ei"}, codes.OutOfRange, "the node has"},
		{[]string{"medium", "HugePages", "size", "1Mi"}, codes.InvalidArgument, "Memory"},
		{[]string{"size", "0"}, codes.InvalidArgument, "above 0"},
		{[]string{"size", "-1"}, codes.InvalidArgument, "size"},
		{[]string{"size", "1e999999999"}, codes.InvalidArgument, "size"},
		{[]string{"size", "7Ei"}, codes.ResourceExhausted, ""},
		{[]string{"pool", "none"}, codes.NotFound, "none"},
		{[]string{"type", "Socket"}, codes.InvalidArgument, "path"},
		{[]string{"sizeLimit", "1Mi"}, codes.InvalidArgument, "sizeLimit"},
	} {
		w.wantCode(w.publish(inline(podA, "v", tc.attributes...)), tc.code, tc.word)
	}
	w.wantNothingLeft()
}

// A SIGKILL at every failpoint of publishing and unpublishing: the retry succeeds, and nothing is
// left when the pod is gone.
func TestInlineVolumeSurvivesACrashAtEveryStep(t *testing.T) {
	for _, attributes := range [][]string{{"type", "DirectoryOrCreate"}, {"type", "FileOrCreate"}, {"medium", "Memory", "size", "1Mi"}} {
		t.Run(strings.Join(attributes, " "), func(t *testing.T) {
			w := newWorld(t, "[]")
			v := inline(podA, "v", append(attributes, "mode", "0644")...)
			steps := 0
			for n := 1; ; n++ {
				w.restart(fmt.Sprintf("CSI_HOSTPATH_FAILPOINT=:%d", n))
				publishErr := w.publish(v)
				if publishErr == nil {
					if w.unpublish(v) == nil && w.isQuiet() {
						break // no step is left to die at
					}
				}
				<-w.Exited()
				steps++
				w.restart()
				for range 2 {
					w.must(w.publish(v))
				}
				w.must(w.unpublish(v))
				w.wantNothingLeft()
			}
			if steps < 2 {
				t.Errorf("the driver died %d times: the failpoints are not there", steps)
			}
			t.Logf("the driver died %d times", steps)
		})
	}
}

// isQuiet: the driver is alive when the trash is empty.
func (w *world) isQuiet() bool {
	w.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		select {
		case <-w.Exited():
			return false
		default:
		}
		if entries, err := os.ReadDir(w.path("pool/trash")); err == nil && len(entries) == 0 {
			return true
		}
	}
	return false
}

func TestLeftoversOfDeadPodsAreRemovedAndThoseOfLivePodsKept(t *testing.T) {
	w := newWorld(t, "[]")
	dead, live := inline(podA, "v"), inline(podB, "v")
	w.must(w.publish(dead))
	w.must(w.publish(live))
	w.write(filepath.Join(w.target(live), "file"), content)
	managed, err := w.create("ns", "pvc-1")
	w.must(err)
	w.must(w.Kill())
	// A reboot: nothing is mounted any more; one of the pods has gone with its directory.
	for _, v := range []volumeOf{dead, live} {
		w.must(syscall.Unmount(w.target(v), 0))
	}
	w.endPod(podA)
	w.start()
	for end := time.Now().Add(patience); len(w.volumes()) != 2; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the pool has %q", w.volumes())
		}
	}
	w.must(w.publish(live))
	w.wantContent(filepath.Join(w.target(live), "file"), content)
	w.must(w.unpublish(live))
	if got := w.volumes(); len(got) != 1 ||
		!strings.HasSuffix(managed.GetVolume().GetVolumeId(), got[0]) {
		t.Errorf("the pool has %q, want the managed volume", got)
	}
}

// The pool's disk is away when the pod ends: kubelet is not held up, and the volume goes when the
// disk is back.
func TestUnpublishWithoutItsPoolLeavesTheVolumeToTheSweep(t *testing.T) {
	w := newWorld(t, "[]")
	v := inline(podA, "v")
	w.must(w.publish(v))
	w.must(w.Kill())
	pool := w.path("pool")
	w.must(os.Rename(pool, pool+".away"))
	w.write(pool, "no directory")
	p, err := startUnready(w)
	w.must(err)
	w.Process = p
	w.must(w.unpublish(v))
	w.endPod(podA)
	w.must(w.Kill())
	w.must(os.Remove(pool))
	w.must(os.Rename(pool+".away", pool))
	w.must(os.MkdirAll(filepath.Join(w.KubeletDir(), "pods", podB.uid), 0o750))
	w.start()
	w.wantNothingLeft()
}

func TestSecretsInAttributesAreNeitherLoggedNorRefused(t *testing.T) {
	w := newWorld(t, "[]")
	v := inline(podA, "v", "csi.storage.k8s.io/serviceAccount.tokens", `{"":{"token":"sesame"}}`)
	w.must(w.publish(v))
	v.attributes["sesame"] = "sesame"
	v.attributes["medium"] = "Memory"
	w.wantCode(w.publish(v), codes.InvalidArgument)
	delete(v.attributes, "sesame")
	w.must(w.unpublish(v))
	if strings.Contains(w.log.String(), "token\":") {
		t.Error("the log has the token")
	}
}

func TestInlineVolumesOfTwoPodsAreApart(t *testing.T) {
	w := newWorld(t, "[]")
	a, b := inline(podA, "v"), inline(podB, "v")
	w.must(w.publish(a))
	w.must(w.publish(b))
	w.write(filepath.Join(w.target(a), "file"), content)
	if entries, err := os.ReadDir(w.target(b)); err != nil || len(entries) > 0 {
		t.Errorf("the other pod sees %v, %v", entries, err)
	}
	stolen := b
	stolen.handle = a.handle
	stolen.name = "stolen"
	w.wantCode(w.publish(stolen), codes.AlreadyExists, podA.uid)
	w.must(w.unpublish(b))
	w.wantContent(filepath.Join(w.target(a), "file"), content)
	if !volume.IsInlineHandle(a.handle) {
		t.Errorf("%q is not taken for kubelet's", a.handle)
	}
}
