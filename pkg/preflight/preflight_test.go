package preflight

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
	"github.com/csi-hostpath/csi-hostpath/test/pod"
)

func TestWhatIsMissingIsAFaultWithItsReason(t *testing.T) {
	disks.RequireRoot(t)
	const mayNot, absent = volume.ReasonMayNotMount, volume.ReasonKubeletAbsent
	dir, file := t.TempDir(), filepath.Join(t.TempDir(), "file")
	fixture.Must(t, os.WriteFile(file, nil, 0o600))
	for _, c := range []struct {
		title      string
		asPod      bool // runs without any capability
		kubeletDir string
		want       []volume.Reason
	}{
		{"nothing", false, dir, nil},
		{"kubelet's directory", false, filepath.Join(dir, "absent"), []volume.Reason{absent}},
		{"kubelet's directory, which is a file", false, file, []volume.Reason{absent}},
		{"the right to mount", true, dir, []volume.Reason{mayNot}},
		{"both", true, filepath.Join(dir, "absent"), []volume.Reason{mayNot, absent}},
	} {
		t.Run(c.title, func(t *testing.T) {
			var faults []error
			check := func() error { faults = Check(c.kubeletDir); return nil }
			if c.asPod {
				pod.Run(t, check)
			} else {
				fixture.Must(t, check())
			}
			wantReasons(t, faults, c.want...)
		})
	}
}

func TestCheckerSeesWhatChangesBelowKubeletsDirectory(t *testing.T) {
	disks.RequireRoot(t)
	dir, elsewhere := t.TempDir(), t.TempDir()
	c := &Checker{KubeletDir: dir}
	wantReasons(t, c.Check())
	for _, below := range wayDown() {
		name := filepath.Join(dir, below)
		fixture.Must(t, os.Symlink(elsewhere, name))
		wantReasons(t, c.Check(), volume.ReasonKubeletLink)
		fixture.Must(t, os.Remove(name))
		wantReasons(t, c.Check())
		fixture.Must(t, os.Mkdir(name, 0o750))
		wantReasons(t, c.Check())
	}
	fixture.Must(t, os.Rename(dir, dir+"-moved"))
	wantReasons(t, c.Check(), volume.ReasonKubeletAbsent)
	fixture.Must(t, os.Symlink(dir+"-moved", dir)) // this one may be a link
	wantReasons(t, c.Check())
}

func wantReasons(t *testing.T, faults []error, want ...volume.Reason) {
	t.Helper()
	var got []volume.Reason
	for _, fault := range faults {
		got = append(got, volume.ReasonOf(fault))
		if !errors.Is(fault, volume.ErrNode) {
			t.Errorf("%v: want ErrNode", fault)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("the faults are %v, want reasons %q", faults, want)
	}
}
