//go:build e2e

// Package e2e tests the driver as its users meet it: installed from its own image on a real Kubernetes of three nodes
// (test/cluster), with real pods. It has the build tag e2e, because it takes a machine for some minutes: `make e2e`.
package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/cluster"
)

const (
	driverName  = "hostpath.csi.local"
	namespace   = "csi-hostpath"
	release     = "csi-hostpath"
	driverImage = "localhost/csi-hostpath:e2e"
	volumesPath = cluster.DefaultDiskPath + "/volumes"
)

var (
	keep    = flag.Bool("keep", false, "leave the cluster up")
	helm    = flag.String("helm", "", "path of the helm program")
	logs    = flag.String("logs", "", "directory for every component's log when a test fails")
	archive = flag.String("image", "", "archive of the driver's image; default: built from the Dockerfile")
	root    = "../.." // of the checkout
)

// testCluster is the one cluster of the run.
var testCluster *cluster.Cluster

func TestMain(m *testing.M) {
	flag.Parse()
	if os.Geteuid() != 0 {
		fmt.Println("e2e: needs root: it makes namespaces and mounts. Run it with sudo.")
		os.Exit(1)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	ctx := context.Background()
	defer down(ctx)
	if err := setUp(ctx); err != nil {
		fmt.Println("e2e: set-up:", err)
		collectLogs(ctx)
		return 1
	}
	code := m.Run()
	if code != 0 {
		collectLogs(ctx)
	}
	return code
}

func setUp(ctx context.Context) (err error) {
	start := time.Now()
	progress := func(format string, args ...any) {
		fmt.Printf("%6.1fs  %s\n", time.Since(start).Seconds(), fmt.Sprintf(format, args...))
	}
	testCluster, err = cluster.Start(ctx, cluster.Options{Nodes: 3, Disks: "ext4,xfs,btrfs", Progress: progress})
	if err != nil {
		return err
	}
	if err := loadImage(ctx, progress); err != nil {
		return err
	}
	progress("install the chart")
	return install(ctx)
}

func loadImage(ctx context.Context, progress func(string, ...any)) error {
	if *archive == "" {
		folder, err := os.MkdirTemp("", "csi-hostpath-e2e-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(folder)
		*archive = filepath.Join(folder, "image.tar")
		progress("build the image from the Dockerfile")
		err = cluster.BuildImage(ctx, cluster.ImageBuild{
			Dockerfile: filepath.Join(root, "Dockerfile"), Context: root, Name: driverImage, Output: *archive, Progress: progress,
		})
		if err != nil {
			return err
		}
	}
	progress("load the image")
	return testCluster.Load(ctx, *archive)
}

func collectLogs(ctx context.Context) {
	if *logs == "" {
		return
	}
	if err := cluster.CollectLogs(ctx, "", *logs); err != nil {
		fmt.Println("e2e: logs:", err)
	}
	fmt.Println("e2e: every component's log is in", *logs)
}

func down(ctx context.Context) {
	if *keep {
		return
	}
	if err := cluster.Down(ctx, "", func(string, ...any) {}); err != nil {
		fmt.Println("e2e: take the cluster down:", err)
	}
}
