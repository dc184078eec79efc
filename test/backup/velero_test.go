//go:build backup

package backup

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/cluster"
)

const (
	veleroNamespace = "velero"
	veleroImage     = "localhost/velero:test"
	pluginImage     = "localhost/velero-plugin-for-aws:test"
)

// velero is an installation of Velero, and its command line.
type velero struct{ program string }

// Pod and claim come back in a namespace that was deleted, on a node that did not have them.
func TestVeleroRestoresANamespaceOnAnotherNode(t *testing.T) {
	v := installVelero(t)
	for _, tc := range []struct {
		name, how string
		database  bool
	}{
		{"files", "--default-volumes-to-fs-backup", false},
		{"snapshot", "--snapshot-move-data", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ns := newNamespace(t, "velero-"+tc.name)
			scheduleOnly(t, btrfsNode)
			apply(t, ns, claim("shop", "csi-hostpath", "")+pod("shop", "{}", "shop"))
			waitFor(t, ns, "pod/shop", ".status.phase", "Running")
			sh(t, ns, "shop", fill)
			committed := 0
			if tc.database {
				sh(t, ns, "shop", load)
				committed = acknowledged(t, ns, "shop")
			}
			want := keptByKopia(sh(t, ns, "shop", files))

			began := time.Now()
			v.run(t, "backup", "create", ns, "--include-namespaces", ns, tc.how)
			v.waitCompleted(t, "backup", ns)
			t.Logf("backed up in %.1f s", time.Since(began).Seconds())
			must(t, "delete", "namespace", ns, "--wait")

			scheduleOnly(t, xfsNode)
			began = time.Now()
			v.run(t, "restore", "create", ns, "--from-backup", ns)
			v.waitCompleted(t, "restore", ns)
			waitFor(t, ns, "pod/shop", ".status.phase", "Running")
			t.Logf("restored in %.1f s", time.Since(began).Seconds())
			waitFor(t, ns, "pod/shop", ".spec.nodeName", xfsNode)
			checkContent(t, keptByKopia(sh(t, ns, "shop", files)), want)
			if tc.database {
				checkDatabase(t, ns, "shop", "/data/db", committed)
			}
		})
	}
}

// linkCount stands before size and time in a line of files.
var linkCount = regexp.MustCompile(`(?m)( \d+:\d+) \d+( \d+ \d+)$`)

// directoryTime stands at the end of the line of a directory.
var directoryTime = regexp.MustCompile(`( directory \d+ \d+:\d+) \d+$`)

// keptByKopia is what files says of what Kopia keeps: it has no hard links and no FIFOs, and a
// restored directory has another time. It has no extended attributes either.
func keptByKopia(print string) string {
	var kept []string
	for line := range strings.SplitSeq(print, "\n") {
		if !strings.Contains(line, " fifo ") {
			line = directoryTime.ReplaceAllString(line, "$1")
			kept = append(kept, linkCount.ReplaceAllString(line, "$1$2"))
		}
	}
	return strings.TrimSpace(strings.Join(kept, "\n"))
}

// scheduleOnly lets new pods start on no other node.
func scheduleOnly(t *testing.T, node string) {
	t.Helper()
	for _, n := range []string{btrfsNode, xfsNode, ext4Node} {
		verb := "cordon"
		if n == node {
			verb = "uncordon"
		}
		must(t, verb, n)
	}
	t.Cleanup(func() {
		_, err := kubectl(context.Background(), "", "uncordon", btrfsNode, xfsNode, ext4Node)
		if err != nil {
			t.Error(err)
		}
	})
}

// installVelero does what docs/backup.md says, with an object store in the cluster, and removes
// Velero after the test.
func installVelero(t *testing.T) velero {
	t.Helper()
	v := loadVelero(t)
	store := newNamespace(t, "backup-velero-store")
	startStore(t, store, ext4Node)
	makeBucket(t, store)
	credentials := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(credentials, fmt.Appendf(nil,
		"[default]\naws_access_key_id=%s\naws_secret_access_key=%s\n", accessKey, secretKey), 0o600,
	); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := v.call(context.Background(), "uninstall", "--force"); err != nil {
			t.Error(err)
		}
	})
	v.run(t, "install", "--use-node-agent", "--use-volume-snapshots=false", "--provider=aws",
		"--features=EnableCSI", "--image="+veleroImage, "--plugins="+pluginImage, "--bucket="+bucket,
		"--secret-file="+credentials, "--velero-pod-cpu-request=0", "--velero-pod-mem-limit=0",
		"--backup-location-config", "region=us-east-1,s3ForcePathStyle=true,s3Url="+storeURL(store))
	must(t, "label", "--overwrite", "volumesnapshotclass", "csi-hostpath",
		"velero.io/csi-volumesnapshot-class=true")
	waitFor(t, veleroNamespace, "backupstoragelocation/default", ".status.phase", "Available")
	waitFor(t, veleroNamespace, "daemonset/node-agent", ".status.numberReady", "3")
	return v
}

// loadVelero builds Velero and loads it into each node.
func loadVelero(t *testing.T) velero {
	t.Helper()
	built, err := cluster.BuildVelero(t.Context(), "", t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	for _, image := range []struct {
		config   cluster.ImageConfig
		programs []string
	}{
		{cluster.ImageConfig{Name: veleroImage}, built.Programs},
		{
			cluster.ImageConfig{
				Name: pluginImage, Entrypoint: []string{"cp", "/velero-plugin-for-aws", "/target/"},
			},
			[]string{built.Plugin},
		},
	} {
		files := t.TempDir()
		if err := tools(t.Context(), files); err != nil {
			t.Fatal(err)
		}
		for _, program := range image.programs {
			if err := copyFile(program, filepath.Join(files, filepath.Base(program))); err != nil {
				t.Fatal(err)
			}
		}
		archive := filepath.Join(t.TempDir(), "image.tar")
		if err := cluster.PackImage(archive, image.config, files); err != nil {
			t.Fatal(err)
		}
		if err := testCluster.Load(t.Context(), archive); err != nil {
			t.Fatal(err)
		}
	}
	return velero{program: built.CLI}
}

// makeBucket lets restic do it.
func makeBucket(t *testing.T, ns string) {
	t.Helper()
	apply(t, ns, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: bucket}
spec:
  restartPolicy: Never
  containers:
    - name: restic
      image: %s
      command: [sh, -ec, %q]
      envFrom: [{secretRef: {name: restic}}]
`, toolsImage, initialize))
	waitDone(t, ns, "bucket")
}

// call returns what Velero's command line prints.
func (v velero) call(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, v.program, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+testCluster.Kubeconfig())
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("velero %q: %w: %s", args, err, out)
	}
	return string(out), nil
}

func (v velero) run(t *testing.T, args ...string) {
	t.Helper()
	if _, err := v.call(t.Context(), args...); err != nil {
		t.Fatal(err)
	}
}

// waitCompleted waits for a backup or a restore.
func (v velero) waitCompleted(t *testing.T, kind, name string) {
	t.Helper()
	ended := []string{"Failed", "PartiallyFailed", "FailedValidation"}
	eventually(t, kind+" "+name, func() error {
		phase, err := kubectl(t.Context(), "", "-n", veleroNamespace, "get", kind+".velero.io", name,
			"-o", "jsonpath={.status.phase}")
		if slices.Contains(ended, phase) {
			t.Fatalf("%s %s: %s\n%s\n%s", kind, name, phase,
				must(t, "-n", veleroNamespace, "get", kind+".velero.io", name, "-o", "yaml"),
				must(t, "-n", veleroNamespace, "logs", "deployment/velero", "--tail=80"))
		}
		if err != nil || phase != "Completed" {
			return fmt.Errorf("%s %s is %q: %w", kind, name, phase, err)
		}
		return nil
	})
}
