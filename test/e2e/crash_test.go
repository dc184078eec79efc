//go:build e2e

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestKilledDriverDisturbsNoWriter(t *testing.T) {
	ns := newNamespace(t)
	apply(t, ns, claim("data", "csi-hostpath", "1Gi")+pod("writer", mounts("data", "/data")))
	waitReady(t, ns, "writer")
	stop := startWriting(t, ns, "writer")
	machine := machineOf(t, ns, "writer")
	killed, err := machine.KillProcesses("csi-hostpath")
	if err != nil || killed == 0 {
		t.Fatalf("killed %d drivers, %v", killed, err)
	}
	// New operations work as soon as kubelet has started it again.
	more := mounts("more", "/data")
	more.node = machine.Name()
	apply(t, ns, claim("more", "csi-hostpath", "1Gi")+pod("after", more))
	waitReady(t, ns, "after")
	stop()
	deletePod(t, ns, "writer", "after")
	waitDriversReady(t)
}

func TestKubeletRestartKeepsVolumes(t *testing.T) {
	ns := newNamespace(t)
	apply(t, ns, claim("data", "csi-hostpath", "1Gi")+pod("writer", mounts("data", "/data")))
	waitReady(t, ns, "writer")
	stop := startWriting(t, ns, "writer")
	machine := machineOf(t, ns, "writer")
	if err := machine.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := machine.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	more := mounts("more", "/data")
	more.node = machine.Name()
	apply(t, ns, claim("more", "csi-hostpath", "1Gi")+pod("after", more))
	waitReady(t, ns, "after")
	stop()
	data, more2 := volumeOf(t, ns, "data"), volumeOf(t, ns, "more")
	deletePod(t, ns, "writer", "after")
	kubectl(t, "-n", ns, "delete", "pvc", "--all", "--timeout=180s")
	checkNothingLeft(t, data, more2)
}

// TestRebootedNodeBringsItsPodsBackWithTheirData pulls the plug: the node's processes, namespaces
// and mounts are gone at once, its disk is kept.
func TestRebootedNodeBringsItsPodsBackWithTheirData(t *testing.T) {
	ns := newNamespace(t)
	p := mounts("data", "/data", "settings", "/etc/app.conf").withInline("own", "/own")
	p.command = "date >> /data/starts; sync; sleep 1000000"
	apply(t, ns,
		claim("data", "csi-hostpath", "1Gi")+claim("settings", "csi-hostpath-file", "1Mi")+pod("app", p))
	waitReady(t, ns, "app")
	sh(t, ns, "app", "echo colour=blue > /etc/app.conf; echo colour=red > /own/conf; sync")
	machine := machineOf(t, ns, "app")
	doomed := podSpec{node: machine.Name()}.withInline("own", "/own")
	apply(t, ns, pod("doomed", doomed))
	waitReady(t, ns, "doomed")
	if inline := inlineVolumesOf(t, machine, ns); len(inline) != 2 {
		t.Fatalf("the inline volumes are %q, want one of each pod", inline)
	}
	starts := sh(t, ns, "app", "wc -l < /data/starts")
	volumes := []string{volumeOf(t, ns, "data"), volumeOf(t, ns, "settings")}
	if err := machine.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	forceDelete(t, ns, "doomed") // kubelet never hears of its end as it does of others
	if err := machine.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	const kept = "; colour=blue; colour=red"
	eventually(t, readyTimeout, func() error {
		out, err := testCluster.Kubectl(t.Context(), "-n", ns, "exec", "app", "--", "sh", "-c",
			"echo $(wc -l < /data/starts)'; '$(cat /etc/app.conf)'; '$(cat /own/conf)")
		if err != nil {
			return err
		}
		if strings.TrimSpace(out) == starts+kept {
			return fmt.Errorf("the pod has not started again")
		}
		if !strings.HasSuffix(out, kept+"\n") {
			t.Fatalf("the pod says %q, before the reboot it had %s starts", out, starts)
		}
		return nil
	})
	// The same pod, by its volumes' records: nothing was made anew.
	for _, v := range volumes {
		if !slices.Contains(hostLs(t, machine, volumesPath), v) {
			t.Errorf("volume %s is not on %s any more", v, machine.Name())
		}
	}
	waitDriversReady(t)
	eventually(t, readyTimeout, func() error {
		if inline := inlineVolumesOf(t, machine, ns); len(inline) != 1 {
			return fmt.Errorf("the inline volumes are %q, want the living pod's", inline)
		}
		return nil
	})
	deletePod(t, ns, "app")
	kubectl(t, "-n", ns, "delete", "pvc", "--all", "--timeout=180s")
	checkNothingLeft(t, volumes...)
}
