//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/cluster"
)

// TestUsersAreToldThatAVolumeIsUnhealthy covers a pool with another directory, and unmounts a
// volume behind kubelet's back.
func TestUsersAreToldThatAVolumeIsUnhealthy(t *testing.T) {
	onlyIn(t, "central") // in node deployment nobody sends the events; the rest is the same
	ns := newNamespace(t)
	apply(t, ns, claim("data", "csi-hostpath", "64Mi")+pod("app", mounts("data", "/data")))
	waitReady(t, ns, "app")
	machine := machineOf(t, ns, "app")
	target := "/var/lib/kubelet/pods/" + kubectl(t, "-n", ns, "get", "pod", "app", "-o",
		"jsonpath={.metadata.uid}") + "/volumes/kubernetes.io~csi/" + volumeOf(t, ns, "data") + "/mount"

	onNode(t, machine, "umount", target)
	wantPodHealth(t, ns, "NotMounted")

	onNode(t, machine, "mount", "--bind", "/usr", cluster.DefaultDiskPath)
	// Once: below it is the disk.
	uncover := sync.OnceFunc(func() { onNode(t, machine, "umount", cluster.DefaultDiskPath) })
	t.Cleanup(uncover)
	wantPodHealth(t, ns, "Pool")
	wantNodeHealth(t, machine.Name(), "Pool")
	eventually(t, readyTimeout, func() error {
		return describes(t, ns, "pvc", "data", "VolumeUnhealthy")
	})

	uncover()
	wantNodeHealth(t, machine.Name(), "")
	eventually(t, readyTimeout, func() error {
		return describes(t, ns, "pvc", "data", "VolumeHealthy")
	})
	waitDriversReady(t)
}

func onNode(t *testing.T, machine *cluster.Node, args ...string) {
	t.Helper()
	if out, err := machine.Exec(context.WithoutCancel(t.Context()), args...); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// hasHealth says whether Kubernetes shows the health of volumes: 1.36 does not.
func hasHealth(t *testing.T) bool {
	t.Helper()
	return !strings.Contains(kubectl(t, "get", "--raw", "/version"), `"minor": "36"`)
}

// wantPodHealth waits until the volumes of pod "app" have conditions whose reasons begin so; empty:
// none.
func wantPodHealth(t *testing.T, ns, reason string) {
	t.Helper()
	if !hasHealth(t) {
		return
	}
	wantReasons(t, reason, "-n", ns, "get", "pod", "app", "-o",
		"jsonpath={.status.volumeHealth[*].healthConditions[*].reason}")
}

func wantNodeHealth(t *testing.T, node, reason string) {
	t.Helper()
	if !hasHealth(t) {
		return
	}
	wantReasons(t, reason, "get", "csinode", node, "-o",
		"jsonpath={.status.storageHealth[*].healthConditions[*].reason}")
}

func wantReasons(t *testing.T, want string, query ...string) {
	t.Helper()
	eventually(t, readyTimeout, func() error {
		got := kubectl(t, query...)
		if !strings.HasPrefix(got, want) || want == "" && got != "" {
			return fmt.Errorf("the conditions are %q, want %q: kubectl %s", got, want,
				strings.Join(query, " "))
		}
		return nil
	})
}
