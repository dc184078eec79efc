//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/plugin"
)

// hostpath runs `kubectl hostpath`.
func hostpath(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	var out, errs strings.Builder
	args = append(args, "--kubeconfig="+testCluster.Kubeconfig())
	code := plugin.Run(t.Context(), args, plugin.Streams{Out: &out, Err: &errs})
	if code != 0 {
		err = fmt.Errorf("kubectl hostpath %s: %d: %s", strings.Join(args, " "), code, errs.String())
	}
	return out.String(), err
}

// items are those of a list in JSON.
func items[T any](t *testing.T, args ...string) []T {
	t.Helper()
	out, err := hostpath(t, append(args, "-o", "json")...)
	if err != nil {
		t.Fatal(err)
	}
	var list struct{ Items []T }
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	return list.Items
}

// TestKubectlHostpathShowsVolumesAndTakesADeletedOneBack is what docs/kubectl.md promises.
func TestKubectlHostpathShowsVolumesAndTakesADeletedOneBack(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	manifest := claim("data", "csi-hostpath", "16Mi")
	if *deployment == "central" { // a VolumeAttributesClass needs it
		attributesClass(t, "kept", "trashRetention", "1h")
		attributesClass(t, "not-kept", "trashRetention", "0s")
		manifest = strings.Replace(manifest, "spec:\n", "spec:\n  volumeAttributesClassName: kept\n", 1)
	}
	apply(t, ns, manifest+pod("app", mounts("data", "/data")))
	waitReady(t, ns, "app")
	sh(t, ns, "app", "echo precious >/data/file && sync")

	volumes := items[plugin.Volume](t, "volumes", "-n", ns)
	if len(volumes) != 1 || volumes[0].Claim != "data" || volumes[0].Node != nodeOf(t, ns, "app") ||
		volumes[0].Data == nil || volumes[0].Data.Pool == "" || volumes[0].Pods[0] != "app" {
		t.Fatalf("volumes has %+v", volumes)
	}
	pools := items[struct{ Node, Reason string }](t, "pools")
	if len(pools) < len(testCluster.Nodes()) {
		t.Errorf("pools has %+v", pools)
	}
	if out, err := hostpath(t, "logs", "data", "-n", ns); err != nil ||
		!strings.Contains(out, volumes[0].PersistentVolume) {
		t.Errorf("logs has %v, %q", err, out)
	}
	if *deployment != "central" {
		return
	}
	deletePod(t, ns, "app")
	kubectl(t, "-n", ns, "delete", "pvc", "data")
	eventually(t, readyTimeout, func() error {
		out, err := hostpath(t, "trash", "-o", "name")
		if err == nil && !strings.Contains(out, "trash/"+volumes[0].PersistentVolume+".") {
			err = fmt.Errorf("trash has %q", out)
		}
		return err
	})
	eventually(t, readyTimeout, func() error { // the PersistentVolume goes after the volume
		_, err := hostpath(t, "undelete", ns+"/data", "-n", ns, "--claim", "data",
			"--reclaim-policy", "Delete")
		return err
	})
	apply(t, ns, pod("again", mounts("data", "/data")))
	waitReady(t, ns, "again")
	if got := sh(t, ns, "again", "cat /data/file"); strings.TrimSpace(got) != "precious" {
		t.Errorf("the volume has %q", got)
	}
	// Other tests wait until there is nothing in the trash.
	setAttributesClass(t, ns, "not-kept")
	eventually(t, readyTimeout, func() error { return hasAttributesClass(t, ns, "not-kept") })
}
