package hostpaths

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

func TestInlineVolumeLivesWithItsPod(t *testing.T) {
	n := newNode(t, "[]")
	for title, tc := range map[string]struct {
		v    volumeOf
		mode os.FileMode
	}{
		"default": {inline(podA, "default"), os.ModeDir | 0o777},
		"directory": {
			inline(podA, "dir", "type", "DirectoryOrCreate", "size", "10Mi", "mode", "0750", "pool", "p"),
			os.ModeDir | 0o750,
		},
		"file":   {inline(podA, "file", "type", "FileOrCreate", "size", "1Mi"), 0o644},
		"memory": {inline(podA, "memory", "medium", "Memory", "size", "1Mi"), os.ModeDir | 0o777},
	} {
		t.Run(title, func(t *testing.T) {
			for range 2 {
				n.Must(n.publish(tc.v))
			}
			info, err := os.Stat(n.target(tc.v))
			if err != nil || info.Mode() != tc.mode {
				t.Errorf("the target has mode %v, %v, want %v", info.Mode(), err, tc.mode)
			}
			file := n.target(tc.v)
			if info.IsDir() {
				file = filepath.Join(file, "file")
			}
			n.write(file, content)
			n.Start()
			n.Must(n.publish(tc.v)) // kubelet repeats the call after its own restart
			n.wantContent(file, content)
			n.wantStats(tc.v)
			for range 2 {
				n.Must(n.unpublish(tc.v))
			}
			n.wantNothingLeft()
		})
	}
}

func TestFullMemoryVolumeIsAnErrorToTheWriter(t *testing.T) {
	n := newNode(t, "[]")
	v := inline(podA, "v", "medium", "Memory", "size", "1Mi")
	n.Must(n.publish(v))
	err := os.WriteFile(filepath.Join(n.target(v), "file"), make([]byte, 2<<20), 0o600)
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v, want ENOSPC", err)
	}
	n.Must(n.unpublish(v))
	n.wantNothingLeft()
}

func TestInlineRefusals(t *testing.T) {
	n := newNode(t, "[]")
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
		n.wantCode(n.publish(inline(podA, "v", tc.attributes...)), tc.code, tc.word)
	}
	n.wantNothingLeft()
}

// The driver gets a SIGKILL at every failpoint of publishing and unpublishing. The retry succeeds,
// and nothing is left after the end of the pod.
func TestInlineVolumeSurvivesACrashAtEveryStep(t *testing.T) {
	for _, attributes := range [][]string{{"type", "DirectoryOrCreate"}, {"type", "FileOrCreate"}, {"medium", "Memory", "size", "1Mi"}} {
		t.Run(strings.Join(attributes, " "), func(t *testing.T) {
			n := newNode(t, "[]")
			v := inline(podA, "v", append(attributes, "mode", "0644")...)
			steps := 0
			for step := 1; ; step++ {
				n.Start(fmt.Sprintf("CSI_HOSTPATH_FAILPOINT=:%d", step))
				publishErr := n.publish(v)
				if publishErr == nil {
					if n.unpublish(v) == nil && n.isQuiet() {
						break // the driver has survived all failpoints
					}
				}
				<-n.Exited()
				steps++
				n.Start()
				for range 2 {
					n.Must(n.publish(v))
				}
				n.Must(n.unpublish(v))
				n.wantNothingLeft()
			}
			if steps < 2 {
				t.Errorf("the driver died only %d times: was it built with the tag failpoint?", steps)
			}
			t.Logf("the driver died %d times", steps)
		})
	}
}

// isQuiet waits until the trash is empty, and says whether the driver is then alive.
func (n *node) isQuiet() bool {
	n.t.Helper()
	quiet := false
	fixture.Eventually(n.t, "the trash is empty, or the driver is dead", func() bool {
		select {
		case <-n.Exited():
			return true
		default:
			quiet = len(n.Entries("pool", "trash")) == 0
			return quiet
		}
	})
	return quiet
}

func TestLeftoversOfDeadPodsAreRemovedAndThoseOfLivePodsKept(t *testing.T) {
	n := newNode(t, "[]")
	dead, live := inline(podA, "v"), inline(podB, "v")
	n.Must(n.publish(dead))
	n.Must(n.publish(live))
	n.write(filepath.Join(n.target(live), "file"), content)
	managed, err := n.create("ns", "pvc-1")
	n.Must(err)
	n.Kill()
	// As after a reboot: nothing is mounted, and the directory of one pod no longer exists.
	for _, v := range []volumeOf{dead, live} {
		n.Must(syscall.Unmount(n.target(v), 0))
	}
	n.endPod(podA)
	n.Start()
	fixture.Eventually(t, "the dead pod's volume is removed",
		func() bool { return len(n.volumes()) == 2 }, func() any { return n.volumes() })
	n.Must(n.publish(live))
	n.wantContent(filepath.Join(n.target(live), "file"), content)
	n.Must(n.unpublish(live))
	if got := n.volumes(); len(got) != 1 ||
		!strings.HasSuffix(managed.GetVolume().GetVolumeId(), got[0]) {
		t.Errorf("the pool has %q, want the managed volume", got)
	}
}

// The pool's disk is missing when the pod ends. The unpublish succeeds all the same, and the volume
// is deleted when the disk is back.
func TestUnpublishWithoutItsPoolLeavesTheVolumeToTheSweep(t *testing.T) {
	n := newNode(t, "[]")
	v := inline(podA, "v")
	n.Must(n.publish(v))
	n.Kill()
	pool := n.Path("pool")
	n.Must(os.Rename(pool, pool+".away"))
	n.write(pool, "no directory")
	p, err := startUnready(n)
	n.Must(err)
	n.Process = p
	n.Must(n.unpublish(v))
	n.endPod(podA)
	n.Kill()
	n.Must(os.Remove(pool))
	n.Must(os.Rename(pool+".away", pool))
	n.Must(os.MkdirAll(filepath.Join(n.KubeletDir(), "pods", podB.uid), 0o750))
	n.Start()
	n.wantNothingLeft()
}

func TestSecretsInAttributesAreNeitherLoggedNorRefused(t *testing.T) {
	n := newNode(t, "[]")
	v := inline(podA, "v", "csi.storage.k8s.io/serviceAccount.tokens", `{"":{"token":"sesame"}}`)
	n.Must(n.publish(v))
	v.attributes["sesame"] = "sesame"
	v.attributes["medium"] = "Memory"
	n.wantCode(n.publish(v), codes.InvalidArgument)
	delete(v.attributes, "sesame")
	n.Must(n.unpublish(v))
	if strings.Contains(n.Log(), "token\":") {
		t.Error("the log has the token")
	}
}

func TestInlineVolumesOfTwoPodsAreApart(t *testing.T) {
	n := newNode(t, "[]")
	a, b := inline(podA, "v"), inline(podB, "v")
	n.Must(n.publish(a))
	n.Must(n.publish(b))
	n.write(filepath.Join(n.target(a), "file"), content)
	if entries, err := os.ReadDir(n.target(b)); err != nil || len(entries) > 0 {
		t.Errorf("the other pod sees %v, %v", entries, err)
	}
	stolen := b
	stolen.handle = a.handle
	stolen.name = "stolen"
	n.wantCode(n.publish(stolen), codes.AlreadyExists, podA.uid)
	n.Must(n.unpublish(b))
	n.wantContent(filepath.Join(n.target(a), "file"), content)
	if !volume.IsInlineHandle(a.handle) {
		t.Errorf("%q is not recognised as a handle of kubelet", a.handle)
	}
}
