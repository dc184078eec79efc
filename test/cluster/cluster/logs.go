package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/controlplane"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/node"
)

// questions are asked of Kubernetes for a failure report: file name to arguments.
var questions = map[string][]string{
	"nodes.txt":    {"describe", "nodes"},
	"pods.txt":     {"get", "pods", "--all-namespaces", "--output=wide"},
	"describe.txt": {"describe", "pods", "--all-namespaces"},
	"events.txt":   {"get", "events", "--all-namespaces", "--sort-by=.lastTimestamp"},
	"storage.txt": {
		"describe",
		"pv,pvc,storageclass,csidriver,csinode,volumeattachment",
		"--all-namespaces",
	},
	"capacity.yaml": {"get", "csistoragecapacity", "--all-namespaces", "--output=yaml"},
	"snapshots.txt": {
		"describe",
		"volumesnapshot,volumesnapshotcontent,volumesnapshotclass",
		"--all-namespaces",
	},
}

// CollectLogs copies the logs of every component and pod into target, with what
// Kubernetes says of itself. It also works on a cluster that did not come up; what
// cannot be had is written in its place, so that a report is never lost to it.
func CollectLogs(ctx context.Context, name, target string) error {
	name = DefaultedName(name)
	if err := checkName(name); err != nil {
		return err
	}
	f := folderOf(name)
	s, err := f.read()
	if err != nil {
		return fmt.Errorf("no logs of cluster %q: %w", name, err)
	}
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	names := []string{controlplane.Name}
	for i := range s.Nodes {
		names = append(names, node.Name(i+1))
	}
	var errs []error
	for _, machineName := range names {
		source := f.layout(machineName).Host("/var/log")
		errs = append(errs, copyLogs(filepath.Join(target, machineName), source))
	}
	c := newCluster(f, s.Options)
	for file, args := range questions {
		errs = append(errs, c.answer(ctx, filepath.Join(target, file), args))
	}
	for _, n := range c.Nodes() {
		if n.Running() {
			errs = append(errs, n.describe(ctx, filepath.Join(target, n.Name(), "state.txt")))
		}
	}
	return errors.Join(errs...)
}

func (c *Cluster) answer(ctx context.Context, file string, args []string) error {
	text, err := c.Kubectl(ctx, args...)
	if err != nil {
		text += "\n" + err.Error() + "\n"
	}
	return os.WriteFile(file, []byte(text), 0o644)
}

// describe writes the node's mounts, processes and disk use.
func (n *Node) describe(ctx context.Context, file string) error {
	var report bytes.Buffer
	for _, args := range [][]string{
		{"cat", "/proc/self/mountinfo"}, {"ps", "-eo", "pid,ppid,stat,args"}, {"df", "-a"}, {"losetup", "--list"},
	} {
		output, err := n.Exec(ctx, args...)
		fmt.Fprintf(&report, "$ %v\n%s", args, output)
		if err != nil {
			fmt.Fprintln(&report, err)
		}
	}
	return os.WriteFile(file, report.Bytes(), 0o644)
}

// copyLogs copies regular files; the links of /var/log/containers point to files
// that are copied anyway.
func copyLogs(target, source string) error {
	return filepath.WalkDir(source, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(source, path)
		if err != nil {
			return err
		}
		switch {
		case entry.IsDir():
			return os.MkdirAll(filepath.Join(target, relative), 0o755)
		case entry.Type().IsRegular():
			return copyLog(filepath.Join(target, relative), path)
		}
		return nil
	})
}

func copyLog(target, source string) error {
	data, err := os.ReadFile(source)
	if errors.Is(err, os.ErrNotExist) {
		return nil // rotated or removed with its pod meanwhile
	}
	if err != nil {
		return err
	}
	return os.WriteFile(target, data, 0o644)
}
