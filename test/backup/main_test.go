//go:build backup

// Package backup backs volumes up to an object store and restores them on another node, on a real
// Kubernetes (test/cluster): as docs/backup.md says. It has the build tag backup, because it takes
// a machine for some minutes: `make test-backup`.
package backup

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/cluster"
)

const (
	driverNamespace = "csi-hostpath"
	driverImage     = "localhost/csi-hostpath:backup"
	// toolsImage has restic, sqlite3 and busybox, and storeImage the S3 server.
	toolsImage = "localhost/backup-tools:test"
	storeImage = "localhost/object-store:test"
	// The filesystems of the three nodes' disks.
	disks = "btrfs,xfs,ext4"
	root  = "../.." // of the checkout
)

var (
	clusterName = flag.String("name", "backup",
		"the cluster's name; if it is up and has the chart, with snapshots, it is used and left up")
	helm = flag.String("helm", "", "path of the helm program")
	keep = flag.Bool("keep", false, "leave the cluster up")
)

var testCluster *cluster.Cluster

func TestMain(m *testing.M) {
	flag.Parse()
	if os.Geteuid() != 0 {
		fmt.Println("backup: needs root: it makes namespaces and mounts. Run it with sudo.")
		os.Exit(1)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	ctx := context.Background()
	started, err := setUp(ctx)
	if started && !*keep {
		defer func() {
			if err := cluster.Down(ctx, *clusterName, func(string, ...any) {}); err != nil {
				fmt.Println("backup: take the cluster down:", err)
			}
		}()
	}
	if err != nil {
		fmt.Println("backup: set-up:", err)
		return 1
	}
	return m.Run()
}

// setUp uses the cluster of the name, or starts it and says so.
func setUp(ctx context.Context) (started bool, err error) {
	began := time.Now()
	say := func(format string, args ...any) {
		fmt.Printf("%6.1fs  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
	folder, err := os.MkdirTemp("", "csi-hostpath-backup-")
	if err != nil {
		return false, err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	testCluster, err = cluster.Attach(*clusterName)
	if errors.Is(err, fs.ErrNotExist) {
		started = true
		testCluster, err = startCluster(ctx, folder, say)
	}
	if err != nil {
		return started, err
	}
	say("load images")
	return started, loadImages(ctx, folder, say)
}

// startCluster starts a cluster of three nodes with the chart of this checkout.
func startCluster(
	ctx context.Context, folder string, say func(string, ...any),
) (*cluster.Cluster, error) {
	c, err := cluster.Start(ctx,
		cluster.Options{Name: *clusterName, Nodes: 3, Disks: disks, Progress: say})
	if err != nil {
		return nil, err
	}
	archive := filepath.Join(folder, "driver.tar")
	say("build the image")
	build := exec.CommandContext(ctx, filepath.Join(root, "hack/release"), "image",
		"--version", "backup", "--tag", driverImage, "--output", archive)
	build.Stderr = os.Stderr // also for its warnings
	if err := build.Run(); err != nil {
		return c, fmt.Errorf("%s: %w", build, err)
	}
	if err := c.Load(ctx, archive); err != nil {
		return c, err
	}
	say("install the chart")
	cmd := exec.CommandContext(ctx, *helm, "install", "csi-hostpath",
		filepath.Join(root, "deploy/helm/csi-hostpath"), "--namespace", driverNamespace,
		"--create-namespace", "--wait", "--timeout=5m",
		"--set", "image.repository=localhost/csi-hostpath,image.tag=backup,image.pullPolicy=Never",
		"--set", "snapshotter.enabled=true")
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig())
	if out, err := cmd.CombinedOutput(); err != nil {
		return c, fmt.Errorf("helm: %w\n%s", err, out)
	}
	return c, nil
}

// loadImages makes what the pods run, and loads it into each node.
func loadImages(ctx context.Context, folder string, say func(string, ...any)) error {
	store, err := cluster.BuildObjectStore(ctx, "", say)
	if err != nil {
		return err
	}
	archive := filepath.Join(folder, "store.tar")
	if err := cluster.PackBusybox(archive, storeImage, store); err != nil {
		return err
	}
	if err := testCluster.Load(ctx, archive); err != nil {
		return err
	}
	files := filepath.Join(folder, "tools")
	if err := tools(ctx, files, "restic", "sqlite3", "getfattr", "setfattr"); err != nil {
		return err
	}
	archive = filepath.Join(folder, "tools.tar")
	err = cluster.PackImage(archive, cluster.ImageConfig{Name: toolsImage}, files)
	return errors.Join(err, testCluster.Load(ctx, archive))
}
