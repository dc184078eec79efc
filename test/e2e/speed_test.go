//go:build e2e

package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/cluster"
)

const manyPods = 60

// TestManyPodsStartLikeWithEmptyDir reports, and asserts no time: 60 pods with an emptyDir each,
// with an inline volume, and with a claim, one after the other; a few of each warm up what they
// need. A claim is made, bound and scheduled by four more programs.
func TestManyPodsStartLikeWithEmptyDir(t *testing.T) {
	volumes := []struct{ name, source string }{
		{"emptyDir", "emptyDir: {}"},
		{"inline", "csi: {driver: " + driverName + ", volumeAttributes: {size: 16Mi}}"},
		{
			"claim",
			"ephemeral: {volumeClaimTemplate: {spec: {storageClassName: csi-hostpath, accessModes: [ReadWriteOnce], " +
				"resources: {requests: {storage: 16Mi}}}}}",
		},
	}
	quiet(t)
	for _, v := range volumes {
		startMany(t, 3, v.source)
	}
	var emptyDir time.Duration
	for _, v := range volumes {
		took := startMany(t, manyPods, v.source)
		if emptyDir == 0 {
			emptyDir = took
		}
		t.Logf("%d pods on 3 nodes, all ready after: %s %.1f s, ratio %.2f", manyPods, v.name,
			took.Seconds(), took.Seconds()/emptyDir.Seconds())
	}
}

// startMany starts pods and waits until all are ready; their end is not counted.
func startMany(t *testing.T, n int, source string) time.Duration {
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
      volumes: [{name: data, %s}]
`, n, cluster.BusyboxImage, source))
	// One process that watches: many that ask would take the processors from what is measured.
	kubectl(t, "-n", ns, "rollout", "status", "deployment/many", "--timeout=10m")
	took := time.Since(start)
	kubectl(t, "delete", "namespace", ns, "--timeout=5m") // not while the next ones start
	quiet(t)
	return took
}
