package btrfs

import (
	"os"
	"testing"

	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/backend/backendtest"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

func opener(mode Mode) func(testing.TB, *os.File) backend.Backend {
	return func(t testing.TB, root *os.File) backend.Backend {
		t.Helper()
		b, ok, err := Open(klog.Background(), root, mode, 7)
		if err != nil || !ok {
			t.Fatalf("open: %t, %v", ok, err)
		}
		return b
	}
}

// newSubject is a new filesystem with that accounting.
func newSubject(kind accounting) func(testing.TB) backendtest.Subject {
	return func(t testing.TB) backendtest.Subject {
		t.Helper()
		s := backendtest.Subject{
			Dir:        disks.New(t, disks.Btrfs, 0).Dir,
			Open:       opener(Enforce),
			OpenLifted: opener(Lift),
			Slack:      512 << 10,
			// Copy on write needs room to remove, but not to unlink (btrfs_start_transaction_fallback_global_rsv).
			TruncateNeeds: 128 << 10,
		}
		root, err := os.Open(s.Dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		fs := filesystem{root: root}
		switch kind {
		case full:
			err = ioctl(root, iocQuotaCtl, "enable quotas", &quotaArgs{cmd: quotaEnable})
		case simple:
			err = ioctl(root, iocQuotaCtl, "enable simple quotas", &quotaArgs{cmd: quotaEnableSimple})
		case none:
			s.Open = opener(Lift)
		}
		if err != nil {
			t.Skipf("needs a kernel with these quotas: %v", err)
		}
		if got, _, err := fs.status(); err != nil || got != kind {
			t.Fatalf("accounting is %d, %v, want %d", got, err, kind)
		}
		return s
	}
}

var kinds = map[string]accounting{"simple quotas": simple, "full quotas": full, "no quotas": none}

func TestConformance(t *testing.T) {
	for name, kind := range kinds {
		t.Run(name, func(t *testing.T) { backendtest.Run(t, newSubject(kind)) })
	}
}

func BenchmarkBtrfs(b *testing.B) {
	for name, kind := range kinds {
		b.Run(name, func(b *testing.B) { backendtest.Benchmark(b, newSubject(kind)) })
	}
}
