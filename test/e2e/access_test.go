//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/cluster"
)

func TestPodsOfANodeShareAReadWriteOnceVolume(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	apply(
		t,
		ns,
		claim(
			"data",
			"csi-hostpath",
			"1Gi",
		)+pod(
			"a",
			mounts("data", "/data"),
		)+pod(
			"b",
			mounts("data", "/data"),
		),
	)
	waitReady(t, ns, "a", "b")
	sh(t, ns, "a", "echo from-a > /data/a.new && mv /data/a.new /data/a")
	sh(t, ns, "b", "echo from-b > /data/b")
	if got := sh(
		t,
		ns,
		"b",
		"cat /data/a",
	) + " " + sh(
		t,
		ns,
		"a",
		"cat /data/b",
	); got != "from-a from-b" {
		t.Errorf("they see %q", got)
	}
	if a, b := nodeOf(t, ns, "a"), nodeOf(t, ns, "b"); a != b {
		t.Errorf("they are on %s and %s", a, b)
	}
}

func TestReadWriteOncePodIsRefusedToASecondPod(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	apply(t, ns,
		claim("data", "csi-hostpath", "1Gi", "ReadWriteOncePod")+pod("first", mounts("data", "/data")))
	waitReady(t, ns, "first")
	// The second one asks the scheduler; the third is bound to the node by hand, so that kubelet
	// and the driver have to refuse it.
	unscheduled := mounts("data", "/data")
	unscheduled.boundTo = nodeOf(t, ns, "first")
	apply(t, ns, pod("second", mounts("data", "/data"))+pod("third", unscheduled))
	for name, want := range map[string]string{
		"second": "PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod",
		"third":  "volume uses the ReadWriteOncePod access mode and is already in use by another pod",
	} {
		eventually(t, readyTimeout, func() error { return describes(t, ns, "pod", name, want) })
	}
	if phase := kubectl(
		t,
		"-n",
		ns,
		"get",
		"pod",
		"third",
		"-o",
		"jsonpath={.status.phase}",
	); phase != "Pending" {
		t.Errorf("the pod that bypassed the scheduler is %s", phase)
	}
	deletePod(t, ns, "first", "third")
	waitReady(t, ns, "second")
}

func TestReadOnlyMountRefusesWrites(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	reader := podSpec{
		volumes:      []string{"{name: data, persistentVolumeClaim: {claimName: data, readOnly: true}}"},
		volumeMounts: []string{"{name: data, mountPath: /data}"},
	}
	apply(t, ns, claim("data", "csi-hostpath", "1Gi")+pod("writer", mounts("data", "/data")))
	waitReady(t, ns, "writer")
	sh(t, ns, "writer", "echo x > /data/file")
	apply(t, ns, pod("reader", reader))
	waitReady(t, ns, "reader")
	if got := sh(t, ns, "reader", "cat /data/file"); got != "x" {
		t.Errorf("the reader reads %q", got)
	}
	if err := shError(
		t,
		ns,
		"reader",
		"echo y > /data/file",
	); !strings.Contains(
		err.Error(), "Read-only file system",
	) {
		t.Errorf("the reader's write says %v", err)
	}
}

// TestProgramOnAVolumeRuns: unlike a scratch mount, a volume is not noexec.
func TestProgramOnAVolumeRuns(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	p := mounts("data", "/data")
	p.security = "{runAsUser: 1000, fsGroup: 2000}"
	apply(t, ns, claim("data", "csi-hostpath", "1Gi")+pod("app", p))
	waitReady(t, ns, "app")
	sh(t, ns, "app", `printf '#!/bin/sh\necho it runs' >/data/script; chmod +x /data/script`)
	if got := kubectl(t, "-n", ns, "exec", "app", "--", "/data/script"); got != "it runs" {
		t.Errorf("the program says %q", got)
	}
}

func TestSubPathShowsPartOfTheVolume(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	apply(t, ns, claim("data", "csi-hostpath", "1Gi")+pod("first", mounts("data", "/whole")))
	waitReady(t, ns, "first")
	sh(t, ns, "first", "echo colour=blue > /whole/app.conf")
	p := mounts("data", "/whole")
	p.volumeMounts = append(p.volumeMounts, "{name: data, mountPath: /part, subPath: inner/dir}",
		"{name: data, mountPath: /etc/app.conf, subPath: app.conf, readOnly: true}")
	apply(t, ns, pod("app", p))
	waitReady(t, ns, "app")
	sh(t, ns, "app", "echo x > /part/file")
	if got := sh(t, ns, "app", "cat /whole/inner/dir/file /etc/app.conf"); got != "x\ncolour=blue" {
		t.Errorf("the whole volume and the file of it hold %q", got)
	}
	if err := shError(
		t,
		ns,
		"app",
		"echo y > /etc/app.conf",
	); !strings.Contains(
		err.Error(), "Read-only file system",
	) {
		t.Errorf("writing the file says %v", err)
	}
	v := volumeOf(t, ns, "data")
	deletePod(t, ns, "first", "app")
	kubectl(t, "-n", ns, "delete", "pvc", "data", "--timeout=180s")
	checkNothingLeft(t, v)
}

func TestNonRootPodWritesThroughFSGroup(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	p := mounts("data", "/data", "file", "/etc/app.conf")
	p.security = "{runAsUser: 1000, runAsGroup: 3000, runAsNonRoot: true, fsGroup: 2000}"
	apply(t, ns,
		claim("data", "csi-hostpath", "1Gi")+claim("file", "csi-hostpath-file", "1Mi")+pod("app", p))
	waitReady(t, ns, "app")
	sh(t, ns, "app", "echo x > /data/file; echo y > /etc/app.conf")
	if got := sh(
		t,
		ns,
		"app",
		"stat -c %g /data /data/file /etc/app.conf | tr '\\n' ' '",
	); got != "2000 2000 2000" {
		t.Errorf("the groups are %q, want fsGroup 2000", got)
	}
}

// TestSecondPodOfAnotherGroupFindsAllInItsGroup is what Kubernetes' suite does
// (test/e2e/storage/testsuites/fsgroupchangepolicy.go, "Always"). The pods are not root, so the
// second one can write to the first one's files only through the group.
func TestSecondPodOfAnotherGroupFindsAllInItsGroup(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ class, mode string }{
		{"csi-hostpath", "ReadWriteOnce"},
		{"csi-hostpath", "ReadWriteOncePod"},
		{"csi-hostpath-image", "ReadWriteOnce"},
	} {
		t.Run(tc.class+" "+tc.mode, func(t *testing.T) {
			t.Parallel()
			ns := newNamespace(t)
			p := mounts("data", "/data")
			p.security = "{runAsUser: 1001, runAsGroup: 3001, runAsNonRoot: true, fsGroup: 1000}"
			apply(t, ns, claim("data", tc.class, "128Mi", tc.mode)+pod("first", p))
			waitReady(t, ns, "first")
			sh(t, ns, "first", "umask 077; echo a >/data/file1; chmod 640 /data/file1; "+
				"mkdir /data/subdir; echo b >/data/subdir/file2")
			groups := "stat -c %g /data /data/file1 /data/subdir /data/subdir/file2 | tr '\\n' ' '"
			if got := sh(t, ns, "first", groups); got != "1000 1000 1000 1000" {
				t.Errorf("in the first pod the groups are %q, want 1000", got)
			}
			deletePod(t, ns, "first")
			p.security = "{runAsUser: 1002, runAsGroup: 3002, runAsNonRoot: true, fsGroup: 2000}"
			apply(t, ns, pod("second", p))
			waitReady(t, ns, "second")
			if got := sh(t, ns, "second", groups); got != "2000 2000 2000 2000" {
				t.Errorf("in the second pod the groups are %q, want 2000", got)
			}
			sh(t, ns, "second", "echo c >>/data/file1; echo d >>/data/subdir/file2; touch /data/subdir/new")
			got := sh(t, ns, "second", "cat /data/file1 /data/subdir/file2 | tr '\\n' ' '")
			if got != "a c b d" {
				t.Errorf("the second pod reads %q", got)
			}
		})
	}
}

func TestFileVolumeMountsOverAFile(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	apply(t, ns, claim("file", "csi-hostpath-file", "1Mi")+pod("app", mounts("file", "/etc/passwd")))
	waitReady(t, ns, "app")
	if got := sh(t, ns, "app", "stat -c '%F %a %s' /etc/passwd"); got != "regular empty file 644 0" {
		t.Errorf("the container sees %q", got)
	}
	sh(t, ns, "app", "echo root:x:0:0::/:/bin/sh > /etc/passwd")
	deletePod(t, ns, "app")
	apply(t, ns, pod("again", mounts("file", "/etc/app.conf")))
	waitReady(t, ns, "again")
	if got := sh(t, ns, "again", "cat /etc/app.conf"); got != "root:x:0:0::/:/bin/sh" {
		t.Errorf("the next pod reads %q", got)
	}
}

func TestGenericEphemeralVolumeFeedsAContainerFromItsSidecar(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	apply(t, ns, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: app}
spec:
  terminationGracePeriodSeconds: 1
  initContainers:
    - name: feeder
      image: %[1]s
      restartPolicy: Always
      command: [sh, -c, "trap exit TERM; i=0; while i=$((i+1)); do echo $i >/scratch/n; mv /scratch/n /scratch/now; sleep 1; done"]
      volumeMounts: [{name: scratch, mountPath: /scratch}]
  containers:
    - name: main
      image: %[1]s
      command: [sh, -c, "trap exit TERM; sleep 1000000 & wait"]
      volumeMounts: [{name: scratch, mountPath: /scratch, readOnly: true}]
  volumes:
    - name: scratch
      ephemeral:
        volumeClaimTemplate:
          spec:
            storageClassName: csi-hostpath
            accessModes: [ReadWriteOnce]
            resources: {requests: {storage: 1Gi}}
`, cluster.BusyboxImage))
	waitReady(t, ns, "app")
	read := func() string {
		return kubectl(t, "-n", ns, "exec", "app", "-c", "main", "--", "sh", "-c",
			"cat /scratch/now 2>/dev/null || true")
	}
	eventually(t, readyTimeout, func() error {
		if read() == "" {
			return fmt.Errorf("nothing comes through the volume")
		}
		return nil
	})
	first := read()
	eventually(t, time.Minute, func() error {
		if read() == first {
			return fmt.Errorf("the volume stays at %q", first)
		}
		return nil
	})
	v := volumeOf(t, ns, "app-scratch")
	deletePod(t, ns, "app")
	checkNothingLeft(t, v)
}
