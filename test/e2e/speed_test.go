//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/cluster"
)

const manyPods = 60

// TestManyPodsStartLikeWithEmptyDir reports, and asserts no time: 60 pods with an emptyDir each,
// with an inline volume, and with a claim, one after the other; a few pods with all three warm up
// what they need. A claim is made, bound and scheduled by four more programs.
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
	var all []string
	for _, v := range volumes {
		all = append(all, v.source)
	}
	startMany(t, 3, all...)
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

// startMany starts pods with volumes and waits until all are ready. Nothing of earlier pods is left
// when it begins. The end of its own pods is not counted.
func startMany(t *testing.T, n int, sources ...string) time.Duration {
	t.Helper()
	quiet(t)
	ns := newNamespace(t)
	var volumes, paths []string
	for i, source := range sources {
		volumes = append(volumes, fmt.Sprintf("{name: data-%d, %s}", i, source))
		paths = append(paths, fmt.Sprintf("{name: data-%d, mountPath: /data-%d}", i, i))
	}
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
          volumeMounts: [%s]
      volumes: [%s]
`, n, cluster.BusyboxImage, strings.Join(paths, ", "), strings.Join(volumes, ", ")))
	// One process that watches: many that ask would take the processors from what is measured.
	kubectl(t, "-n", ns, "rollout", "status", "deployment/many", "--timeout=10m")
	took := time.Since(start)
	kubectl(t, "delete", "namespace", ns, "--timeout=5m")
	return took
}
