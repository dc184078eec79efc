package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// claim is a volume with what kubelet and the provisioner know of it.
type claim struct {
	scene *scene
	pv    string
	kind  string
	id    string
}

const giB = 1 << 30

// sharing is a directory in two pods.
func (c *claim) sharing() []action {
	return []action{
		{"CreateVolume of 1 GiB", c.create},
		{"NodeStageVolume", c.stage},
		{"NodePublishVolume into pod A", c.publish(podA)},
		{"NodePublishVolume into pod B", c.publish(podB)},
		{"pod A writes hello.txt", c.write(podA, words)},
		{"pod B reads it", c.read(podB, words)},
		{"NodeGetVolumeStats", c.stats},
	}
}

// asFile is a file mounted on a file, as a ConfigMap's key with a subPath would be.
func (c *claim) asFile() []action {
	return append([]action{
		{"CreateVolume of type FileOrCreate", c.create},
		{"NodeStageVolume", c.stage},
		{"NodePublishVolume into pod A", c.publish(podA)},
		{"pod A writes its configuration", c.write(podA, setting)},
		{"pod A reads it", c.read(podA, setting)},
	}, c.ending(podA)...)
}

// ending takes the volume away from its pods and deletes it.
func (c *claim) ending(pods ...pod) (steps []action) {
	for _, p := range pods {
		steps = append(steps, action{"NodeUnpublishVolume from pod " + p.name, c.unpublish(p)})
	}
	return append(steps, action{"NodeUnstageVolume", c.unstage}, action{"DeleteVolume", c.remove})
}

func (c *claim) create(ctx context.Context) ([]string, error) {
	resp, err := c.scene.driver.Controller.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name:               c.pv,
		CapacityRange:      &csi.CapacityRange{RequiredBytes: giB},
		VolumeCapabilities: []*csi.VolumeCapability{accessMode()},
		Parameters:         map[string]string{"type": c.kind},
	})
	if err != nil {
		return nil, err
	}
	c.id = resp.GetVolume().GetVolumeId()
	info, err := os.Stat(c.data())
	if err != nil {
		return nil, err
	}
	return []string{"volume " + c.id, fmt.Sprintf("%s %s", info.Mode(), c.data())}, nil
}

// data is the volume on disk: a volume is a directory that root can look at.
func (c *claim) data() string { return filepath.Join(c.scene.pool(), "volumes", c.pv, "data") }

// staging is kubelet's global mount path; this driver has nothing to mount there.
func (c *claim) staging() string {
	return filepath.Join(c.scene.kubelet(), "plugins", "kubernetes.io", "csi", "hostpath.csi.local",
		c.pv, "globalmount")
}

func (c *claim) stage(ctx context.Context) ([]string, error) {
	if err := os.MkdirAll(c.staging(), 0o750); err != nil {
		return nil, err
	}
	_, err := c.scene.driver.Node.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
		VolumeId: c.id, StagingTargetPath: c.staging(), VolumeCapability: accessMode(),
	})
	return nil, err
}

func (c *claim) unstage(ctx context.Context) ([]string, error) {
	_, err := c.scene.driver.Node.NodeUnstageVolume(ctx,
		&csi.NodeUnstageVolumeRequest{VolumeId: c.id, StagingTargetPath: c.staging()})
	return nil, err
}

func (c *claim) target(p pod) string { return p.target(c.scene.kubelet(), c.pv) }

// publish makes the target's parent as kubelet does; the target itself is the driver's to make.
func (c *claim) publish(p pod) func(context.Context) ([]string, error) {
	return func(ctx context.Context) ([]string, error) {
		if err := os.MkdirAll(filepath.Dir(c.target(p)), 0o750); err != nil {
			return nil, err
		}
		_, err := c.scene.driver.Node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
			VolumeId:          c.id,
			StagingTargetPath: c.staging(),
			TargetPath:        c.target(p),
			VolumeCapability:  accessMode(),
		})
		if err != nil {
			return nil, err
		}
		kind := "directory"
		if info, err := os.Stat(c.target(p)); err == nil && info.Mode().IsRegular() {
			kind = "file"
		}
		return []string{"a " + kind + " mounted at " + c.target(p)}, nil
	}
}

func (c *claim) unpublish(p pod) func(context.Context) ([]string, error) {
	return func(ctx context.Context) ([]string, error) {
		_, err := c.scene.driver.Node.NodeUnpublishVolume(ctx,
			&csi.NodeUnpublishVolumeRequest{VolumeId: c.id, TargetPath: c.target(p)})
		if err != nil {
			return nil, err
		}
		if _, err := os.Lstat(c.target(p)); !os.IsNotExist(err) {
			return nil, fmt.Errorf("%s is still there: %w", c.target(p), err)
		}
		return nil, nil
	}
}

// file is what the pod's processes open: the target itself when the volume is a file.
func (c *claim) file(p pod) string {
	if c.kind == "FileOrCreate" {
		return c.target(p)
	}
	return filepath.Join(c.target(p), "hello.txt")
}

func (c *claim) write(p pod, text string) func(context.Context) ([]string, error) {
	return func(context.Context) ([]string, error) {
		return nil, os.WriteFile(c.file(p), []byte(text), 0o644)
	}
}

func (c *claim) read(p pod, want string) func(context.Context) ([]string, error) {
	return func(context.Context) ([]string, error) {
		got, err := os.ReadFile(c.file(p))
		if err == nil && string(got) != want {
			err = fmt.Errorf("pod %s reads %q, want %q", p.name, got, want)
		}
		return []string{fmt.Sprintf("%q", got)}, err
	}
}

func (c *claim) stats(ctx context.Context) ([]string, error) {
	resp, err := c.scene.driver.Node.NodeGetVolumeStats(ctx,
		&csi.NodeGetVolumeStatsRequest{VolumeId: c.id, VolumePath: c.target(podA)})
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, u := range resp.GetUsage() {
		lines = append(lines,
			fmt.Sprintf("%s: %d used, %d available", u.GetUnit(), u.GetUsed(), u.GetAvailable()))
	}
	return lines, nil
}

// deleteRefused shows that the new process knows from the mount table what the old one has
// published.
func (c *claim) deleteRefused(ctx context.Context) ([]string, error) {
	_, err := c.scene.driver.Controller.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: c.id})
	line, err := refusal(err)
	return []string{line}, err
}

func (c *claim) remove(ctx context.Context) ([]string, error) {
	_, err := c.scene.driver.Controller.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: c.id})
	return nil, err
}
