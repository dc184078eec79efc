//go:build backup

package backup

import (
	"fmt"
	"testing"
)

const (
	accessKey, secretKey = "backup", "backup-secret"
	bucket               = "backups"
	resticPassword       = "password-of-the-repository"
)

// storeURL is where pods reach the object store.
func storeURL(ns string) string { return "http://store." + ns + ".svc:7070" }

// startStore starts an S3 server on a node, and waits until it answers. The Secret restic has what
// restic needs.
func startStore(t *testing.T, ns, node string) {
	t.Helper()
	apply(t, ns, fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: store, labels: {app: store}}
spec:
  terminationGracePeriodSeconds: 1
  nodeSelector: %s
  containers:
    - name: versitygw
      image: %s
      command: [/versitygw, --access, %s, --secret, %s, --port, ":7070", posix, /store]
      readinessProbe: {tcpSocket: {port: 7070}, periodSeconds: 1}
      volumeMounts: [{name: store, mountPath: /store}]
  volumes: [{name: store, emptyDir: {}}]
---
apiVersion: v1
kind: Service
metadata: {name: store}
spec:
  selector: {app: store}
  ports: [{port: 7070}]
---
apiVersion: v1
kind: Secret
metadata: {name: restic}
stringData:
  AWS_ACCESS_KEY_ID: %[3]s
  AWS_SECRET_ACCESS_KEY: %[4]s
  RESTIC_REPOSITORY: s3:%[5]s/%[6]s/restic
  RESTIC_PASSWORD: %[7]s
  RESTIC_CACHE_DIR: /tmp/cache
`, onNode(node), storeImage, accessKey, secretKey, storeURL(ns), bucket, resticPassword))
	waitFor(t, ns, "pod/store", ".status.containerStatuses[0].ready", "true")
}
