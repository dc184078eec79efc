//go:build e2e

package e2e

import (
	"context"
	"os"
	"strings"
	"testing"
)

// oldRuntime is the handler of Debian's runc (containerd.toml of test/cluster). All other pods have
// a newer one, which sets only the mount flags that kubelet asks for.
const oldRuntime = "runc-1-1"

func newOldRuntimeClass(t *testing.T, ns string) (name string) {
	t.Helper()
	t.Cleanup(func() { kubectl(t, "delete", "runtimeclass", ns, "--ignore-not-found") })
	apply(t, ns, "{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: "+ns+
		"}, handler: "+oldRuntime+"}\n")
	return ns
}

// TestNobodyWritesBelowAReadOnlyRule: nor into what is mounted there on the node, whatever the
// container's mount says.
func TestNobodyWritesBelowAReadOnlyRule(t *testing.T) {
	t.Parallel()
	ns, node := newNamespace(t), testCluster.Nodes()[0]
	const root = "/srv/models/flags"
	disk, err := node.HostPath(root + "/disk")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := node.Exec(t.Context(), "mount", "-t", "tmpfs", "tmpfs", root+"/disk"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = node.Exec(context.Background(), "umount", root+"/disk") })
	attributes := []string{"path", root, "type", "Directory"}
	here := podSpec{node: node.Name()}
	inline := here.withReadOnly("data", "/data", attributes...)
	claimed := here.with("{name: data, persistentVolumeClaim: {claimName: data, readOnly: true}}",
		"{name: data, mountPath: /data}")
	old := inline
	old.runtimeClass = newOldRuntimeClass(t, ns)
	apply(t, ns, staticVolume(t, ns, "data", node, attributes...)+
		pod("inline", inline)+pod("claimed", claimed)+pod("old", old))
	waitReady(t, ns, "inline", "claimed", "old")
	for _, name := range []string{"inline", "claimed", "old"} {
		for _, file := range []string{"/data/new", "/data/disk/new"} {
			err := shError(t, ns, name, "echo x >"+file)
			if !strings.Contains(err.Error(), "Read-only file system") {
				t.Errorf("writing to %s in pod %s says %v", file, name, err)
			}
		}
	}
}

// TestSetIDProgramAndDeviceOfAVolumeBringNobodyRights: under the new runc because of the pod's own
// restrictions, under the old one because the volume is nosuid and nodev.
func TestSetIDProgramAndDeviceOfAVolumeBringNobodyRights(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	user := mounts("data", "/data")
	user.security = "{runAsUser: 1000, fsGroup: 2000}"
	confined, old := user, user
	confined.container = "{allowPrivilegeEscalation: false}"
	old.runtimeClass = newOldRuntimeClass(t, ns)
	apply(t, ns, claim("data", "csi-hostpath", "1Gi")+
		pod("root", mounts("data", "/data"))+pod("confined", confined)+pod("old", old))
	waitReady(t, ns, "root", "confined", "old")
	sh(t, ns, "root", "cp /bin/busybox /data/id; chmod 4755 /data/id; "+
		"mknod -m 666 /data/null c 1 3; mknod -m 666 /data/disk b 7 0")
	for _, name := range []string{"confined", "old"} {
		if got := sh(t, ns, name, "/data/id -u"); got != "1000" {
			t.Errorf("a set-uid program of the volume runs as %s in pod %s", got, name)
		}
	}
	// The device rules of every container allow /dev/null.
	for _, tc := range []struct{ pod, command, want string }{
		{"old", "echo x >/data/null", "Permission denied"},
		{"old", "head -c 1 /data/disk", "Permission denied"},
		{"confined", "head -c 1 /data/disk", "Operation not permitted"},
		{"root", "head -c 1 /data/disk", "Operation not permitted"},
	} {
		if err := shError(t, ns, tc.pod, tc.command); !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s in pod %s says %v", tc.command, tc.pod, err)
		}
	}
}
