//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// TestClaimGrowsWhileItsPodWrites raises a claim on a pool that holds sizes: what did not fit does,
// nothing is restarted, and the pod's writer notices nothing.
func TestClaimGrowsWhileItsPodWrites(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	p := mounts("data", "/data")
	p.node = nodeWith(t, "btrfs").Name()
	apply(t, ns, claim("data", "csi-hostpath", "64Mi")+pod("app", p))
	waitReady(t, ns, "app")
	const write96 = "dd if=/dev/urandom of=/data/file bs=1M count=96 conv=fsync"
	if err := shError(t, ns, "app", write96); !isFull(err) {
		t.Errorf("writing 96 MiB to a volume of 64 says %v", err)
	}
	sh(t, ns, "app", "rm /data/file; sync")
	stop := startWriting(t, ns, "app")
	grow(t, ns, "data", "160Mi")
	eventually(t, readyTimeout, func() error { return hasCapacity(t, ns, "data", "160Mi") })
	sh(t, ns, "app", write96)
	stop()
	restarts := kubectl(t, "-n", ns, "get", "pod", "app", "-o",
		"jsonpath={.status.containerStatuses[0].restartCount}")
	size := kubectl(t, "get", "pv", volumeOf(t, ns, "data"), "-o", "jsonpath={.spec.capacity.storage}")
	if size != "160Mi" || restarts != "0" {
		t.Errorf("the volume's capacity is %s, and the pod was restarted %s times", size, restarts)
	}
	// More than the pool has: events say so, and the volume stays as it was. They are the claim's
	// where the controller is asked first, else the pod's, because kubelet asks.
	kind, name := "pod", "app"
	if *deployment == "central" {
		kind, name = "pvc", "data"
	}
	grow(t, ns, "data", "1Ti")
	for _, want := range []string{"VolumeResizeFailed", "bytes wanted"} {
		eventually(t, readyTimeout, func() error { return describes(t, ns, kind, name, want) })
	}
	if err := hasCapacity(t, ns, "data", "160Mi"); err != nil {
		t.Error(err)
	}
	// The user may ask for less again.
	grow(t, ns, "data", "192Mi")
	eventually(t, readyTimeout, func() error { return hasCapacity(t, ns, "data", "192Mi") })
	sh(t, ns, "app", "rm /data/file; echo x >/data/small; sync")
}

// TestClaimWithoutTheMarkSaysHowItGrows takes from a claim the annotation that one written by hand
// for an existing volume lacks: the admission policy keeps the resizer from it, and an event says
// what to do. That is done, and the claim grows.
func TestClaimWithoutTheMarkSaysHowItGrows(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	apply(t, ns, claim("data", "csi-hostpath", "16Mi")+pod("app", mounts("data", "/data")))
	waitReady(t, ns, "app")
	kubectl(t, "-n", ns, "annotate", "pvc", "data", provisionerOf+"-")
	grow(t, ns, "data", "32Mi")
	remedy := "annotate --overwrite pvc data " + provisionerOf + "=" + driverName
	for _, want := range []string{"ClaimCannotGrow", remedy} {
		eventually(t, readyTimeout, func() error { return describes(t, ns, "pvc", "data", want) })
	}
	if err := hasCapacity(t, ns, "data", "16Mi"); err != nil {
		t.Error(err)
	}
	out, _ := hostpath(t, "-n", ns, "doctor", "--all-namespaces=false")
	if !strings.Contains(out, "claim "+ns+"/data: wants to grow to 32Mi, and has 16Mi: it lacks") {
		t.Errorf("doctor does not say why the claim does not grow:\n%s", out)
	}
	kubectl(t, append([]string{"-n", ns}, strings.Fields(remedy)...)...)
	eventually(t, readyTimeout, func() error { return hasCapacity(t, ns, "data", "32Mi") })
}

func grow(t *testing.T, ns, name, size string) {
	t.Helper()
	kubectl(t, "-n", ns, "patch", "pvc", name, "-p",
		fmt.Sprintf(`{"spec": {"resources": {"requests": {"storage": %q}}}}`, size))
}

// hasCapacity is an error unless the claim says that its volume has that size.
func hasCapacity(t *testing.T, ns, name, want string) error {
	t.Helper()
	if got := kubectl(
		t,
		"-n",
		ns,
		"get",
		"pvc",
		name,
		"-o",
		"jsonpath={.status.capacity.storage}",
	); got != want {
		return fmt.Errorf("claim %s has %s, want %s", name, got, want)
	}
	return nil
}

// isFull says whether a command failed because its volume is full.
func isFull(err error) bool {
	return strings.Contains(err.Error(), "quota exceeded") ||
		strings.Contains(err.Error(), "No space left")
}
