package mount

import (
	"errors"
	"path"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

func TestTargetLiesBelowTheKubeletsDirectory(t *testing.T) {
	for _, tc := range []struct{ base, target string }{
		{"/var/lib/kubelet", "/var/lib/kubelet/pods/uid/volumes/kubernetes.io~csi/pvc/mount"},
		{"/var/lib/kubelet", "/var/lib/kubelet/x"},
		{"/var/lib/kubelet", "/var/lib/kubelet/..x"},
		{"/var/lib/kubelet", "/var/lib/kubelet/with blank"},
		{"/", "/x"},
	} {
		at, err := ParseTarget(tc.base, tc.target)
		if err != nil || at.String() != tc.target {
			t.Errorf("%s below %s: %q, %v", tc.target, tc.base, at, err)
		}
	}
}

func TestTargetElsewhereIsRefused(t *testing.T) {
	const base = "/var/lib/kubelet"
	for _, s := range []string{
		"",
		"/",
		".",
		"relative",
		"var/lib/kubelet/x",
		base,
		base + "/",
		base + "/x/",
		base + "//x",
		base + "/./x",
		base + "/x/..",
		base + "/../kubelet/x",
		base + "/../../../etc",
		base + "2/x",
		base + "x",
		"/etc/passwd",
		"/VAR/lib/kubelet/x",
		base + "/x\x00",
		base + "/x\x00/../../../../etc",
		base + "/" + strings.Repeat("x", 4096),
		base + strings.Repeat("/x", 1<<20),
	} {
		if at, err := ParseTarget(base, s); !errors.Is(err, volume.ErrInvalid) || at != (Target{}) {
			t.Errorf("ParseTarget(%.60q) = %v, %v, want ErrInvalid", s, at, err)
		}
	}
}

func FuzzParseTarget(f *testing.F) {
	const base = "/var/lib/kubelet"
	for _, s := range []string{
		"", "/", base, base + "/x", base + "/../x", base + "//x", base + "/x\x00",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		at, err := ParseTarget(base, s)
		if err != nil {
			if !errors.Is(err, volume.ErrInvalid) || at != (Target{}) {
				t.Errorf("%v, %v: want no target and ErrInvalid", at, err)
			}
			return
		}
		if at.String() != s || path.Clean(s) != s || !strings.HasPrefix(s, base+"/") ||
			strings.ContainsRune(s, 0) {
			t.Errorf("ParseTarget(%q) = %q", s, at)
		}
	})
}
