//go:build backup

package backup

import (
	"context"
	"strings"
	"testing"
	"time"
)

const imageClass = `
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: backup-image}
provisioner: hostpath.csi.local
volumeBindingMode: WaitForFirstConsumer
parameters: {type: DirectoryOrCreate, backing: image}
`

// The nodes of the cluster by the filesystems of their disks.
const btrfsNode, xfsNode, ext4Node = "node-1", "node-2", "node-3"

// initialize makes the repository. The store may need a moment more than its port.
const initialize = `until restic init; do sleep 1; done`

// makeImageClass makes the class of images for the time of a test.
func makeImageClass(t *testing.T, ns string) {
	t.Helper()
	t.Cleanup(func() { // the cluster may be left up
		_, err := kubectl(context.Background(), "", "delete", "storageclass", "backup-image")
		if err != nil {
			t.Error(err)
		}
	})
	apply(t, ns, imageClass)
}

// A snapshot is one moment of the whole volume, on btrfs and of an image: what the database had
// acknowledged before it is in the backup.
func TestSnapshotIsMovedToAnObjectStoreAndRestoredOnAnotherNode(t *testing.T) {
	for _, tc := range []struct{ name, class, from, to string }{
		{"directory", "csi-hostpath", btrfsNode, xfsNode},
		{"image", "backup-image", xfsNode, ext4Node},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ns := newNamespace(t, "backup-"+tc.name)
			makeImageClass(t, ns)
			startStore(t, ns, ext4Node)
			apply(t, ns, claim("shop", tc.class, "")+pod("shop", onNode(tc.from), "shop"))
			waitFor(t, ns, "pod/shop", ".status.phase", "Running")
			sh(t, ns, "shop", fill)
			sh(t, ns, "shop", load)
			want, committed := sh(t, ns, "shop", fingerprint), acknowledged(t, ns, "shop")

			began := time.Now()
			moveSnapshot(t, ns, tc.class)
			t.Logf("backed up in %.1f s", time.Since(began).Seconds())
			// The volume is lost, with its node's disk.
			must(t, "-n", ns, "delete", "pod/shop", "pvc/shop", "--wait")

			began = time.Now()
			apply(t, ns, claim("shop", tc.class, "")+
				mover("restore", onNode(tc.to), "shop", "restic restore latest --target /"))
			waitDone(t, ns, "restore")
			t.Logf("restored in %.1f s", time.Since(began).Seconds())
			apply(t, ns, pod("shop", "{}", "shop"))
			waitFor(t, ns, "pod/shop", ".status.phase", "Running")
			waitFor(t, ns, "pod/shop", ".spec.nodeName", tc.to)
			checkContent(t, sh(t, ns, "shop", fingerprint), want)
			checkDatabase(t, ns, "shop", "/data/db", committed)
		})
	}
}

// moveSnapshot backs the claim shop up: from a snapshot of it, through a claim that is made from
// the snapshot.
func moveSnapshot(t *testing.T, ns, class string) {
	t.Helper()
	apply(t, ns, `
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: shop}
spec:
  volumeSnapshotClassName: csi-hostpath
  source: {persistentVolumeClaimName: shop}
`)
	waitFor(t, ns, "volumesnapshot/shop", ".status.readyToUse", "true")
	apply(t, ns, claim("shop-backup", class, "shop")+
		mover("backup", "{}", "shop-backup", initialize+"; restic backup --host shop /data"))
	t.Log(waitDone(t, ns, "backup"))
	must(t, "-n", ns, "delete", "pod/backup", "pvc/shop-backup", "volumesnapshot/shop", "--wait")
}

// A pod reads the volume beside the one that writes it. Files show different moments, so the
// database is backed up by itself before.
func TestFilesOfAPodAreBackedUpAndRestoredOnAnotherNode(t *testing.T) {
	ns := newNamespace(t, "backup-files")
	startStore(t, ns, ext4Node)
	apply(t, ns, claim("shop", "csi-hostpath", "")+pod("shop", onNode(ext4Node), "shop"))
	waitFor(t, ns, "pod/shop", ".status.phase", "Running")
	sh(t, ns, "shop", fill)
	sh(t, ns, "shop", load)
	want, committed := sh(t, ns, "shop", fingerprint), acknowledged(t, ns, "shop")
	sh(t, ns, "shop", `sqlite3 /data/db ".timeout 60000" ".backup /data/dump"`)

	apply(t, ns, mover("backup", "{}", "shop",
		initialize+"; restic backup --host shop --exclude '/data/db*' /data"))
	t.Log(waitDone(t, ns, "backup"))
	must(t, "-n", ns, "delete", "pod/backup", "pod/shop", "pvc/shop", "--wait")

	apply(t, ns, claim("shop", "csi-hostpath", "")+mover("restore", onNode(btrfsNode), "shop",
		"restic check --read-data; restic restore latest --target /; mv /data/dump /data/db"))
	if log := waitDone(t, ns, "restore"); !strings.Contains(log, "no errors were found") {
		t.Errorf("the repository is not whole: %s", log)
	}
	apply(t, ns, pod("shop", "{}", "shop"))
	waitFor(t, ns, "pod/shop", ".status.phase", "Running")
	waitFor(t, ns, "pod/shop", ".spec.nodeName", btrfsNode)
	checkContent(t, sh(t, ns, "shop", fingerprint), want)
	checkDatabase(t, ns, "shop", "/data/db", committed)
}
