//go:build e2e

package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// attributesClass makes a VolumeAttributesClass, which goes with the test. It is not waited for:
// Kubernetes keeps it while a claim has it.
func attributesClass(t *testing.T, name string, parameters ...string) {
	t.Helper()
	t.Cleanup(func() { kubectl(t, "delete", "volumeattributesclass", name, "--wait=false") })
	apply(t, "default", fmt.Sprintf(`
apiVersion: storage.k8s.io/v1
kind: VolumeAttributesClass
metadata: {name: %s}
driverName: %s
parameters: %s
`, name, driverName, flow(parameters...)))
}

// setAttributesClass changes the VolumeAttributesClass of the claim data.
func setAttributesClass(t *testing.T, ns, class string) {
	t.Helper()
	kubectl(t, "-n", ns, "patch", "pvc", "data", "-p",
		fmt.Sprintf(`{"spec": {"volumeAttributesClassName": %q}}`, class))
}

func hasAttributesClass(t *testing.T, ns, want string) error {
	t.Helper()
	got := kubectl(t, "-n", ns, "get", "pvc", "data", "-o",
		"jsonpath={.status.currentVolumeAttributesClassName}")
	if got != want {
		return fmt.Errorf("claim data has the class %q, want %q", got, want)
	}
	return nil
}

// secondsToWrite is how long a pod takes for 8 MiB.
func secondsToWrite(t *testing.T, ns, pod string) int {
	t.Helper()
	out := sh(t, ns, pod, "s=$(date +%s); "+
		"dd if=/dev/zero of=/data/file bs=1M count=8 conv=notrunc,fsync 2>/dev/null; "+
		"echo $(($(date +%s) - s))")
	seconds, err := strconv.Atoi(strings.TrimSpace(out))
	if err != nil {
		t.Fatal(err)
	}
	return seconds
}

// TestIOLimitComesAndGoesWhileThePodRuns changes the class of a claim: the limit holds, and goes,
// and the pod is not restarted.
func TestIOLimitComesAndGoesWhileThePodRuns(t *testing.T) {
	onlyIn(t, "central")
	t.Parallel()
	ns := newNamespace(t)
	attributesClass(t, "slow", "writeBytesPerSecond", "1Mi")
	attributesClass(t, "unlimited", "writeBytesPerSecond", "default")
	slowFromTheStart := strings.Replace(claim("slow", "csi-hostpath-image", "64Mi"), "spec:\n",
		"spec:\n  volumeAttributesClassName: slow\n", 1)
	apply(t, ns, claim("data", "csi-hostpath-image", "64Mi")+pod("app", mounts("data", "/data"))+
		slowFromTheStart+pod("slow", mounts("slow", "/data")))
	waitReady(t, ns, "app", "slow")
	// 8 MiB at 1 MiB per second; a busy machine is slower.
	const least = 6
	isSlow := func(pod string) func() error {
		return func() error {
			if took := secondsToWrite(t, ns, pod); took < least {
				return fmt.Errorf("pod %s has written 8 MiB in %d s", pod, took)
			}
			return nil
		}
	}
	isFast := func() error {
		if took := secondsToWrite(t, ns, "app"); took >= least {
			return fmt.Errorf("pod app has written 8 MiB in %d s, without a limit", took)
		}
		return nil
	}
	eventually(t, readyTimeout, isFast)
	setAttributesClass(t, ns, "slow")
	eventually(t, readyTimeout, func() error { return hasAttributesClass(t, ns, "slow") })
	eventually(t, readyTimeout, isSlow("app"))
	eventually(t, readyTimeout, isSlow("slow"))
	// Another process than the one that has set the limit lifts it.
	node := machineOf(t, ns, "app")
	if killed, err := node.KillProcesses("csi-hostpath"); killed == 0 || err != nil {
		t.Fatalf("%d drivers were killed, %v", killed, err)
	}
	waitDriversReady(t)
	eventually(t, readyTimeout, isSlow("app"))
	// Kubernetes lets no claim go back to having no class.
	if _, err := testCluster.Kubectl(t.Context(), "-n", ns, "patch", "pvc", "data", "-p",
		`{"spec": {"volumeAttributesClassName": null}}`); err == nil {
		t.Error("Kubernetes has taken the class off the claim: docs/qos.md says that it does not")
	}
	setAttributesClass(t, ns, "unlimited")
	eventually(t, readyTimeout, func() error { return hasAttributesClass(t, ns, "unlimited") })
	eventually(t, readyTimeout, isFast)
	restarts := kubectl(t, "-n", ns, "get", "pod", "app", "-o",
		"jsonpath={.status.containerStatuses[0].restartCount}")
	if restarts != "0" {
		t.Errorf("the pod was restarted %s times", restarts)
	}
}

// TestAttributesThatAVolumeCannotHaveAreAnEvent: the claim says what to do, and goes on with what
// it can have.
func TestAttributesThatAVolumeCannotHaveAreAnEvent(t *testing.T) {
	onlyIn(t, "central")
	t.Parallel()
	ns := newNamespace(t)
	attributesClass(t, "impossible", "readIOPS", "100")
	attributesClass(t, "retained", "trashRetention", "1s")
	apply(t, ns, claim("data", "csi-hostpath", "64Mi")+pod("app", mounts("data", "/data")))
	waitReady(t, ns, "app")
	setAttributesClass(t, ns, "impossible")
	eventually(t, readyTimeout, func() error {
		return describes(t, ns, "pvc", "data", "use a StorageClass with backing: image")
	})
	setAttributesClass(t, ns, "retained")
	eventually(t, readyTimeout, func() error { return hasAttributesClass(t, ns, "retained") })
}
