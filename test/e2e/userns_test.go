//go:build e2e

package e2e

import (
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/cluster"
)

// mappedVolumes are the paths in a pod of newMappedPod, one for each kind of volume.
var mappedVolumes = []string{"/directory", "/file", "/image", "/inline", "/memory", "/path"}

// newMappedPod applies a pod with hostUsers: false and each kind of volume that is mounted.
func newMappedPod(t *testing.T, ns, name string, node *cluster.Node) {
	t.Helper()
	claims := []string{"directory-" + name, "file-" + name, "image-" + name}
	p := mounts(claims[0], "/directory", claims[1], "/file", claims[2], "/image").
		withInline("inline", "/inline").
		withInline("memory", "/memory", "medium", "Memory", "size", "1Mi").
		withInline("path", "/path", "path", "/srv/mapped", "type", "DirectoryOrCreate")
	p.node, p.security, p.hasOwnUsers = node.Name(), "{fsGroup: 2000}", true
	apply(t, ns, claim(claims[0], "csi-hostpath", "8Mi")+claim(claims[1], "csi-hostpath-file", "8Mi")+
		claim(claims[2], "csi-hostpath-image", "48Mi")+pod(name, p))
}

// TestPodWithItsOwnUsersHasEachKindOfVolume: root of a pod with hostUsers: false is nobody on the
// node, and what it writes is root's in each volume.
func TestPodWithItsOwnUsersHasEachKindOfVolume(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	var pods []string
	for _, node := range testCluster.Nodes() {
		pods = append(pods, "on-"+node.Name())
		newMappedPod(t, ns, "on-"+node.Name(), node)
	}
	waitReady(t, ns, pods...)
	for i, node := range testCluster.Nodes() {
		if first := sh(t, ns, pods[i], "awk '{print $2; exit}' /proc/self/uid_map"); first == "0" {
			t.Errorf("pod %s has the users of the node", pods[i])
		}
		for _, path := range mappedVolumes {
			file := path + "/new"
			if path == "/file" {
				file = path
			}
			if owner := sh(t, ns, pods[i], "echo x >"+file+" && stat -c %u "+file); owner != "0" {
				t.Errorf("on %s what root writes to %s is of user %s", node.Name(), path, owner)
			}
		}
		written := volumesPath + "/" + volumeOf(t, ns, "directory-"+pods[i]) + "/data/new"
		owner, err := node.Exec(t.Context(), "stat", "-c", "%u", written)
		if err != nil || strings.TrimSpace(owner) != "0" {
			t.Errorf("on the disk of %s the file is of user %q, %v: want root", node.Name(), owner, err)
		}
	}
}
