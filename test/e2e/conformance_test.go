//go:build e2e

package e2e

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/cluster"
	"github.com/csi-hostpath/csi-hostpath/test/conformance/suite"
)

// TestKubernetesOwnTestsPass runs a dozen of Kubernetes' own tests of storage drivers: each kind of
// volumes, and what claims can ask of it. `make conformance` runs all of them.
func TestKubernetesOwnTestsPass(t *testing.T) {
	built := make(chan error, 1)
	r := suite.Run{Cluster: testCluster, Reports: t.TempDir(), Procs: 3, Short: true}
	go func() { // a cold cache compiles for a minute, in which the tests before this one mostly wait
		var err error
		r.Suite, err = cluster.BuildSuite(t.Context(), "", "", nil)
		built <- err
	}()
	t.Parallel()
	if err := <-built; err != nil {
		t.Fatal(err)
	}
	if *logs != "" {
		r.Reports = filepath.Join(*logs, "conformance")
	}
	t.Cleanup(func() {
		if err := r.Remove(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := r.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, k := range suite.Short() {
		result, err := r.Kind(t.Context(), k)
		t.Logf("\n%s", result.Table(k.Name))
		if err != nil {
			t.Error(err)
		}
	}
	if t.Failed() {
		collectLogs(context.Background(), t.Name())
	}
}
