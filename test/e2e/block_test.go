//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/cluster"
)

// blockClaim is a claim of a raw block volume.
func blockClaim(name, size string) string {
	return strings.Replace(claim(name, "csi-hostpath-image", size), "spec:\n",
		"spec:\n  volumeMode: Block\n", 1)
}

// blockPod has the claim's device at /dev/disk, and the rights to mount it.
func blockPod(name, claim, node string) string {
	return fmt.Sprintf(`
---
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  terminationGracePeriodSeconds: 1
  nodeSelector: {kubernetes.io/hostname: %s}
  containers:
    - name: main
      image: %s
      command: [sh, -c, "trap exit TERM; sleep 1000000 & wait"]
      securityContext: {privileged: true}
      volumeDevices: [{name: disk, devicePath: /dev/disk}]
  volumes: [{name: disk, persistentVolumeClaim: {claimName: %s}}]
`, name, node, cluster.BusyboxImage, claim)
}

// TestPodMakesAFilesystemOnItsBlockDevice: a raw block volume has exactly its size, keeps what is
// written, grows online, and is gone in the end. A snapshot of it is a disk again.
func TestPodMakesAFilesystemOnItsBlockDevice(t *testing.T) {
	ns := newNamespace(t)
	node := nodeWith(t, "xfs")
	const size = "blockdev --getsize64 /dev/disk"
	apply(t, ns, blockClaim("disk", "64Mi")+blockPod("first", "disk", node.Name()))
	waitReady(t, ns, "first")
	if got := sh(t, ns, "first", size); got != "67108864" {
		t.Errorf("the device has %s bytes, want 64 MiB", got)
	}
	const mounted = "mkdir /disk && mount -t ext2 /dev/disk /disk && "
	sh(t, ns, "first",
		"mke2fs -b 4096 /dev/disk >/dev/null && "+mounted+"echo kept >/disk/file && umount /disk && sync")
	apply(t, ns, snapshot("snap", "disk"))
	waitSnapshots(t, ns, "snap")
	// Another driver than the one that attached the device makes it larger and detaches it.
	if killed, err := node.KillProcesses("csi-hostpath"); killed == 0 || err != nil {
		t.Fatalf("%d drivers were killed, %v", killed, err)
	}
	grow(t, ns, "disk", "96Mi")
	eventually(t, readyTimeout, func() error {
		if got := sh(t, ns, "first", size); got != "100663296" {
			return fmt.Errorf("the device has %s bytes, want 96 MiB", got)
		}
		return nil
	})
	deletePod(t, ns, "first")
	fromSnapshot := strings.Replace(restored("copy", "csi-hostpath-image", "80Mi", "snap"), "spec:\n",
		"spec:\n  volumeMode: Block\n", 1)
	apply(t, ns,
		blockPod("second", "disk", node.Name())+fromSnapshot+blockPod("copy", "copy", node.Name()))
	waitReady(t, ns, "second", "copy")
	for name, want := range map[string]string{"second": "100663296", "copy": "83886080"} {
		if got := sh(
			t,
			ns,
			name,
			mounted+"cat /disk/file && umount /disk && "+size,
		); got != "kept\n"+want {
			t.Errorf("%s finds %q, want what the first pod wrote, on %s bytes", name, got, want)
		}
	}
	volumes := []string{volumeOf(t, ns, "disk"), volumeOf(t, ns, "copy")}
	deletePod(t, ns, "second", "copy")
	kubectl(t, "-n", ns, "delete", "pvc", "disk", "copy", "--timeout=180s")
	checkNothingLeft(t, volumes...)
	for _, v := range volumes {
		loops, err := node.Exec(t.Context(), "losetup", "--list", "--noheadings", "--output", "BACK-FILE")
		if err != nil || strings.Contains(loops, v) {
			t.Errorf("%s has the loop devices %s, %v", node.Name(), loops, err)
		}
	}
}

// TestImageHasItsSizeAndGrows: `df` in the pod shows the volume, not the pool, on a filesystem
// without quotas. (XFS, because resize2fs wants CAP_SYS_RESOURCE, which not every machine that this
// runs on has to give.)
func TestImageHasItsSizeAndGrows(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	p := mounts("data", "/data")
	p.node, p.security = nodeWith(t,
		"ext4").Name(), "{runAsUser: 1000, runAsNonRoot: true, fsGroup: 2000}"
	apply(t, ns, claim("data", "csi-hostpath-image-xfs", "320Mi")+pod("app", p))
	waitReady(t, ns, "app")
	if err := dfShows(t, ns, "app", 200, 320); err != nil { // without the filesystem's own log
		t.Error(err)
	}
	if err := shError(t, ns, "app", "dd if=/dev/zero of=/data/file bs=1M count=400"); !isFull(err) {
		t.Errorf("a full image says %v", err)
	}
	sh(t, ns, "app", "rm /data/file")
	stop := startWriting(t, ns, "app")
	grow(t, ns, "data", "640Mi")
	eventually(t, readyTimeout, func() error { return dfShows(t, ns, "app", 520, 640) })
	sh(t, ns, "app", "dd if=/dev/zero of=/data/file bs=1M count=400 && rm /data/file")
	if got := sh(t, ns, "app", "stat -c '%g %a' /data"); got != "2000 2775" {
		t.Errorf("the volume's group and mode are %q, want fsGroup's", got)
	}
	stop()
}

// dfShows is an error unless the volume is that large in its pod, in MiB.
func dfShows(t *testing.T, ns, name string, least, most int) error {
	t.Helper()
	var size int
	if _, err := fmt.Sscan(sh(t, ns, name, "df -m /data | awk 'END {print $2}'"), &size); err != nil {
		t.Fatal(err)
	}
	if size < least || size > most {
		return fmt.Errorf("df shows %d MiB, want %d to %d", size, least, most)
	}
	return nil
}
