//go:build e2e

package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/cluster"
)

const manyPods = 60

// TestManyPodsStartLikeWithEmptyDir reports, and asserts no time: 60 pods with a volume of ours each, and 60 with an emptyDir, one after
// the other; a few of both warm up what they need.
func TestManyPodsStartLikeWithEmptyDir(t *testing.T) {
	emptyDir := "{name: data, emptyDir: {}}"
	ours := "{name: data, ephemeral: {volumeClaimTemplate: {spec: {storageClassName: csi-hostpath, accessModes: [ReadWriteOnce], " +
		"resources: {requests: {storage: 16Mi}}}}}}"
	quiet(t)
	startMany(t, 6, emptyDir)
	startMany(t, 6, ours)
	without := startMany(t, manyPods, emptyDir)
	with := startMany(t, manyPods, ours)
	t.Logf("%d pods on 3 nodes, all ready after: emptyDir %.1f s, csi-hostpath %.1f s, ratio %.2f",
		manyPods, without.Seconds(), with.Seconds(), with.Seconds()/without.Seconds())
}

// startMany starts pods and waits until all are ready; their end is not counted.
func startMany(t *testing.T, n int, volume string) time.Duration {
	t.Helper()
	ns := newNamespace(t)
	start := time.Now()
	apply(t, ns, fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: many}
spec:
  replicas: %d
  selector: {matchLabels: {app: many}}
  template:
    metadata: {labels: {app: many}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: main
          image: %s
          command: [sleep, "1000000"]
          volumeMounts: [{name: data, mountPath: /data}]
      volumes: [%s]
`, n, cluster.BusyboxImage, volume))
	// One process that watches: many that ask would take the processors from what is measured.
	kubectl(t, "-n", ns, "rollout", "status", "deployment/many", "--timeout=10m")
	took := time.Since(start)
	kubectl(t, "delete", "namespace", ns, "--timeout=5m") // not while the next ones start
	quiet(t)
	return took
}
