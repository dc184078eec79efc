//go:build e2e

// Package e2e tests the driver as its users meet it: installed from its own image on a real
// Kubernetes of three nodes (test/cluster), with real pods. It has the build tag e2e, because it
// takes a machine for some minutes: `make e2e`.
//
// A test that looks at what is its own and leaves drivers, nodes and the installation alone is
// parallel, a few at a time (-parallel of the Makefile): it mostly waits. The others run before,
// one after the other.
package e2e

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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
	keep = flag.Bool("keep", false, "leave the cluster up")
	// Not the default name of test/cluster: the cluster that somebody tries things on is left alone.
	clusterName = flag.String("name", "e2e", "the cluster's name, when several run side by side")
	helm        = flag.String("helm", "", "path of the helm program")
	deployment  = flag.String("deployment", "central", "the chart's deployment: central or node")
	logs        = flag.String("logs", "", "directory for every component's log when a test fails")
	archive     = flag.String("image", "",
		"archive of the driver's image; default: built from the checkout, as make image does")
	root = "../.." // of the checkout
)

// testCluster is the one cluster of the run; imageMark tells the image that it runs from earlier
// ones.
var (
	testCluster *cluster.Cluster
	imageMark   string
)

func TestMain(m *testing.M) {
	flag.Parse()
	if *deployment != "node" && *deployment != "central" {
		fmt.Println("e2e: -deployment is central or node, not", *deployment)
		os.Exit(2)
	}
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
		collectLogs(ctx, "set-up")
		return 1
	}
	code := m.Run()
	if err := waitNothingLeft(ctx); err != nil {
		fmt.Println("e2e: the tests are over, but", err)
		collectLogs(ctx, "leftovers")
		code = max(code, 1)
	}
	return code
}

// waitNothingLeft is the last test: after all those crashes, reboots and reinstallations, each
// volume was deleted.
func waitNothingLeft(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		err := leftovers(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		time.Sleep(pollInterval)
	}
}

func setUp(ctx context.Context) (err error) {
	start := time.Now()
	progress := func(format string, args ...any) {
		fmt.Printf("%6.1fs  %s\n", time.Since(start).Seconds(), fmt.Sprintf(format, args...))
	}
	folder, err := os.MkdirTemp("", "csi-hostpath-e2e-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	built := make(chan error, 1)
	go func() { built <- buildImage(ctx, folder, progress) }()
	testCluster, err = cluster.Start(ctx,
		cluster.Options{Name: *clusterName, Nodes: 3, Disks: "ext4,xfs,btrfs", Progress: progress})
	if err := errors.Join(err, <-built); err != nil {
		return err
	}
	if err := loadImage(ctx, progress); err != nil {
		return err
	}
	progress("install the chart, deployment %s", *deployment)
	if err := install(ctx); err != nil {
		return err
	}
	progress("run the tests")
	return nil
}

// version is what `make image` says.
func version(ctx context.Context) string {
	cmd := exec.CommandContext(ctx, "git", "-C", root, "describe", "--tags", "--always", "--dirty")
	out, err := cmd.Output()
	if err != nil { // a copy without its history
		return "e2e"
	}
	return strings.TrimSpace(string(out))
}

// buildImage builds the driver's image into a folder, unless -image gives one. The cluster starts
// meanwhile.
func buildImage(ctx context.Context, folder string, progress func(string, ...any)) error {
	if *archive != "" {
		return nil
	}
	progress("build the image")
	*archive = filepath.Join(folder, "image.tar")
	cmd := exec.CommandContext(ctx, filepath.Join(root, "hack/release"), "image",
		"--version", version(ctx), "--tag", driverImage, "--output", *archive)
	cmd.Stderr = os.Stderr // also for its warnings
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", cmd, err)
	}
	return nil
}

func loadImage(ctx context.Context, progress func(string, ...any)) error {
	progress("load the image")
	content, err := os.ReadFile(*archive)
	if err != nil {
		return err
	}
	imageMark = fmt.Sprintf("h-%x", sha256.Sum256(content))[:20]
	return testCluster.Load(ctx, *archive)
}

// collectLogs keeps every component's log, and what Kubernetes says of itself, in a folder named
// for what failed.
func collectLogs(ctx context.Context, name string) {
	if *logs == "" {
		return
	}
	folder := filepath.Join(*logs, name)
	if err := cluster.CollectLogs(ctx, *clusterName, folder); err != nil {
		fmt.Println("e2e: logs:", err)
	}
	fmt.Println("e2e: every component's log is in", folder)
}

func down(ctx context.Context) {
	if *keep {
		return
	}
	if err := cluster.Down(ctx, *clusterName, func(string, ...any) {}); err != nil {
		fmt.Println("e2e: take the cluster down:", err)
	}
}
