package plain_test

import (
	"os"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/backend/backendtest"
	"github.com/csi-hostpath/csi-hostpath/pkg/backend/plain"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

func subject(fstype string) func(testing.TB) backendtest.Subject {
	return func(t testing.TB) backendtest.Subject {
		t.Helper()
		return backendtest.Subject{
			Dir:  disks.New(t, fstype, 0).Dir,
			Open: func(testing.TB, *os.File) backend.Backend { return plain.Plain{} },
		}
	}
}

func TestConformance(t *testing.T) {
	for _, fstype := range disks.Types() {
		t.Run(fstype, func(t *testing.T) { backendtest.Run(t, subject(fstype)) })
	}
}

func BenchmarkPlain(b *testing.B) {
	for _, fstype := range disks.Types() {
		b.Run(fstype, func(b *testing.B) { backendtest.Benchmark(b, subject(fstype)) })
	}
}
