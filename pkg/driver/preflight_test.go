package driver

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/config"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
	"github.com/csi-hostpath/csi-hostpath/test/pod"
)

func TestPreflightLogsWhatTheProcessLacks(t *testing.T) {
	disks.RequireRoot(t)
	const mayNot, notThere = "The driver may not mount", "Kubelet's directory is not there"
	dir, file := t.TempDir(), filepath.Join(t.TempDir(), "file")
	fixture.Must(t, os.WriteFile(file, nil, 0o600))
	for _, c := range []struct {
		title      string
		asPod      bool // runs without any capability
		kubeletDir string
		want       []string
	}{
		{"nothing", false, dir, nil},
		{"kubelet's directory", false, filepath.Join(dir, "absent"), []string{notThere}},
		{"kubelet's directory, which is a file", false, file, []string{notThere}},
		{"the right to mount", true, dir, []string{mayNot}},
		{"both", true, filepath.Join(dir, "absent"), []string{mayNot, notThere}},
	} {
		t.Run(c.title, func(t *testing.T) {
			var out bytes.Buffer
			fixture.Must(t, logWith(t, &out, "--logging-format=json"))
			cfg := config.Default()
			cfg.KubeletDir = c.kubeletDir
			warn := func() error { preflight(t.Context(), cfg); return nil }
			if c.asPod {
				pod.Run(t, warn)
			} else {
				fixture.Must(t, warn())
			}
			for _, want := range c.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("the log does not say %q:\n%s", want, out.String())
				}
			}
			if got := strings.Count(out.String(), "\n"); got != len(c.want) {
				t.Errorf("%d lines, want %d:\n%s", got, len(c.want), out.String())
			}
		})
	}
}
