//go:build backup

package backup

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

const (
	// patience is for what a busy machine does in its own time.
	patience     = 10 * time.Minute
	pollInterval = time.Second
)

// kubectl returns what kubectl prints, without the blanks around it.
func kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, testCluster.Programs()+"/kubectl", args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+testCluster.Kubeconfig())
	cmd.Stdin = strings.NewReader(stdin)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("kubectl %q: %w: %s", args, err, stderr.String())
	}
	return strings.TrimSpace(string(out)), nil
}

func must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := kubectl(t.Context(), "", args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// apply tries again: the API server of a busy machine may not answer in time.
func apply(t *testing.T, ns, objects string) {
	t.Helper()
	eventually(t, "apply", func() error {
		_, err := kubectl(t.Context(), objects, "-n", ns, "apply", "-f", "-")
		return err
	})
}

// sh runs a script in a pod.
func sh(t *testing.T, ns, pod, script string) string {
	t.Helper()
	return must(t, "-n", ns, "exec", pod, "--", "sh", "-ec", script)
}

// eventually calls check until it returns nil.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	began := time.Now()
	for {
		err := check()
		if err == nil {
			t.Logf("%s: %.1f s", what, time.Since(began).Seconds())
			return
		}
		if time.Since(began) > patience {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(pollInterval)
	}
}

// waitFor waits until a field of an object has a value.
func waitFor(t *testing.T, ns, object, path, want string) {
	t.Helper()
	eventually(t, object+" "+path+"="+want, func() error {
		got, err := kubectl(t.Context(), "", "-n", ns, "get", object, "-o", "jsonpath={"+path+"}")
		if err != nil || got != want {
			return fmt.Errorf("%s is %q, want %q: %w", path, got, want, err)
		}
		return nil
	})
}

// waitDone waits for a pod that runs once, and returns its log.
func waitDone(t *testing.T, ns, pod string) string {
	t.Helper()
	eventually(t, "pod "+pod, func() error {
		phase, err := kubectl(t.Context(), "", "-n", ns, "get", "pod", pod, "-o",
			"jsonpath={.status.phase}")
		switch {
		case err != nil:
			return err
		case phase == "Failed":
			t.Fatalf("pod %s failed:\n%s", pod, must(t, "-n", ns, "logs", pod))
		case phase != "Succeeded":
			return fmt.Errorf("pod %s is %s", pod, phase)
		}
		return nil
	})
	return must(t, "-n", ns, "logs", pod)
}

// newNamespace makes a namespace that is deleted after the test.
func newNamespace(t *testing.T, name string) string {
	t.Helper()
	// Of a run that was killed.
	must(t, "delete", "namespace", name, "--ignore-not-found", "--wait")
	must(t, "create", "namespace", name)
	must(t, "label", "namespace", name, "pod-security.kubernetes.io/enforce=privileged")
	t.Cleanup(func() {
		_, err := kubectl(context.WithoutCancel(t.Context()), "", "delete", "namespace", name, "--wait")
		if err != nil {
			t.Error(err)
		}
	})
	return name
}

// onNode is a pod's node selector.
func onNode(node string) string { return "{kubernetes.io/hostname: " + node + "}" }

// pod keeps running with a claim at /data.
func pod(name, selector, claim string) string {
	return fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: %[1]s}}
spec:
  terminationGracePeriodSeconds: 1
  nodeSelector: %s
  containers:
    - name: main
      image: %s
      command: [sh, -c, "while :; do sleep 1; done"]
      volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: %s}}]
`, name, selector, toolsImage, claim)
}

// mover runs a script once, with a claim at /data and restic's environment.
func mover(name, selector, claim, script string) string {
	return fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  restartPolicy: Never
  nodeSelector: %s
  containers:
    - name: main
      image: %s
      command: [sh, -ec, %q]
      envFrom: [{secretRef: {name: restic}}]
      volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: %s}}]
`, name, selector, toolsImage, script, claim)
}

// claim is of a class; source may be empty, or a VolumeSnapshot's name.
func claim(name, class, source string) string {
	text := fmt.Sprintf(`---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: %s}
spec:
  storageClassName: %s
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 512Mi}}
`, name, class)
	if source != "" {
		text += "  dataSource: {apiGroup: snapshot.storage.k8s.io, kind: VolumeSnapshot, name: " +
			source + "}\n"
	}
	return text
}
