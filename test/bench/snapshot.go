package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/copytree"
	"github.com/csi-hostpath/csi-hostpath/test/report"
)

// filling is what a volume is filled with.
type filling struct {
	name  string
	files int
	bytes int
}

// large and small are the volumes that are copied: few large files, and many small ones.
func (b *bench) large() filling {
	const files = 4
	return filling{fmt.Sprintf("%d MiB in %d files", b.bytes>>20, files), files, b.bytes / files}
}

func (b *bench) small() filling {
	const bytes = 4 << 10
	return filling{fmt.Sprintf("%d files of %d KiB", b.files/10, bytes>>10), b.files / 10, bytes}
}

// volumeSize has room for either.
const volumeSize = 640 << 20

// room is the size of a volume for it, with an eighth for directories.
func (c filling) room() int64 { return max(volumeSize, int64(c.files)*int64(c.bytes)/8*9) }

// write makes the files, not more than 1,000 to a directory, of bytes that no filesystem can leave
// out.
func (c filling) write(ctx context.Context, dir string) error {
	block := make([]byte, min(c.bytes, 1<<20))
	if _, err := rand.Read(block); err != nil {
		return err
	}
	for i := range c.files {
		sub := filepath.Join(dir, strconv.Itoa(i/1000))
		if err := errors.Join(ctx.Err(), os.MkdirAll(sub, 0o755)); err != nil {
			return err
		}
		f, err := os.Create(filepath.Join(sub, strconv.Itoa(i%1000)))
		if err != nil {
			return err
		}
		for written := 0; written < c.bytes && err == nil; written += len(block) {
			_, err = f.Write(block)
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// copyTimes has what each round came to, in milliseconds.
type copyTimes struct {
	snapshot, restore, clone    []float64 // the driver's calls
	cp, cpSynced, tree, treeAll []float64 // the same without a driver
}

// snapshots measures CreateSnapshot and CreateVolume from it, beside cp(1) on the same filesystem.
func (b *bench) snapshots(ctx context.Context) error {
	p, _, err := b.driver(ctx, "snapshot")
	if err != nil {
		return err
	}
	s := sockets{Process: p}
	for _, c := range []filling{b.large(), b.small()} {
		if err := b.measureCopies(ctx, s, c); err != nil {
			return err
		}
	}
	if err := b.disturb(ctx, s); err != nil {
		return err
	}
	return b.stop(p)
}

// source is a volume with content, settled on the disk.
type source struct {
	id, data string
}

func (b *bench) fillVolume(ctx context.Context, s sockets, c filling) (source, error) {
	name := volumeName()
	id, err := s.createSized(ctx, name, c.room(), nil)
	if err != nil {
		return source{}, err
	}
	data := filepath.Join(b.pool("snapshot"), "volumes", name, "data")
	return source{id, data}, errors.Join(c.write(ctx, data), b.disk.settle())
}

// measureCopies makes all copies of one content in turn, round by round.
func (b *bench) measureCopies(ctx context.Context, s sockets, c filling) error {
	from, err := b.fillVolume(ctx, s, c)
	if err != nil {
		return err
	}
	var times copyTimes
	for range b.rounds {
		if err := b.copyOnce(ctx, s, from, &times); err != nil {
			return err
		}
	}
	b.report.Chapter("Copies of a volume: "+c.name, b.copyRows(c, times)...)
	return s.remove(ctx, from.id)
}

func (b *bench) copyRows(c filling, t copyTimes) []report.Row {
	snapshot := report.NewRow("CreateSnapshot; floor: cp -a, then syncfs", "ms",
		t.snapshot).Beside(t.snapshot, t.cpSynced)
	// What cp(1) alone promises is less: nothing survives a power cut.
	unequal := report.NewRow("CreateSnapshot; floor: cp -a alone", "ms",
		t.snapshot).Beside(t.snapshot, t.cp)
	restore := report.NewRow("CreateVolume from it; floor: cp -a, then syncfs", "ms",
		t.restore).Beside(t.restore, t.cpSynced)
	switch {
	case c == b.large() && b.fs == "btrfs":
		snapshot, restore = snapshot.AtMost(50), restore.AtMost(50)
	case c == b.large() && b.fs == "xfs":
		snapshot, restore = snapshot.AtMost(150), restore.AtMost(50)
	case c == b.small() && b.fs == "xfs":
		snapshot = snapshot.AtMost(500)
	case c == b.small() && b.fs == "ext4":
		snapshot, unequal = snapshot.RatioAtMost(1/1.5), unequal.RatioAtMost(1/1.5)
	}
	return []report.Row{
		snapshot,
		unequal,
		restore,
		report.NewRow("CreateVolume from the volume; the same floor", "ms",
			t.clone).Beside(t.clone, t.cpSynced),
		report.NewRow("pkg/copytree alone, synced; the same floor", "ms",
			t.treeAll).Beside(t.treeAll, t.cpSynced),
		report.NewRow("pkg/copytree alone, not synced; floor: cp -a", "ms", t.tree).Beside(t.tree, t.cp),
	}
}

// copyOnce makes one of each copy, each on a disk that is at rest.
func (b *bench) copyOnce(ctx context.Context, s sockets, from source, t *copyTimes) error {
	var snapshot string
	volumes := []string{volumeName(), volumeName()}
	steps := []struct {
		times *[]float64
		do    func() error
	}{
		{&t.snapshot, func() (err error) { snapshot, err = s.snapshot(ctx, from.id); return err }},
		{&t.restore, func() error { return s.restore(ctx, &volumes[0], snapshot) }},
		{&t.clone, func() error { return s.clone(ctx, &volumes[1], from.id) }},
		{&t.cp, func() error { return b.cp(ctx, from.data) }},
		{&t.cpSynced, func() error { return errors.Join(b.cp(ctx, from.data), b.disk.settle()) }},
		{&t.tree, func() error { return b.copyTree(ctx, from.data, copytree.Volatile) }},
		{&t.treeAll, func() error { return b.copyTree(ctx, from.data, copytree.Durable) }},
	}
	for _, step := range steps {
		if err := b.disk.settle(); err != nil {
			return err
		}
		start := time.Now()
		if err := step.do(); err != nil {
			return err
		}
		*step.times = append(*step.times, report.Milliseconds(time.Since(start)))
		if err := os.RemoveAll(b.pool("copy")); err != nil {
			return err
		}
	}
	if err := errors.Join(
		s.removeSnapshot(ctx, snapshot),
		s.remove(ctx, volumes[0]),
		s.remove(ctx, volumes[1]),
	); err != nil {
		return err
	}
	_, _, err := b.drain(ctx, "snapshot")
	return err
}

func (b *bench) cp(ctx context.Context, from string) error {
	_, err := output(ctx, "cp", "-a", from, b.pool("copy"))
	return err
}

func (b *bench) copyTree(ctx context.Context, from string, durability copytree.Durability) error {
	if err := os.Mkdir(b.pool("copy"), 0o700); err != nil {
		return err
	}
	src, err := os.OpenFile(from, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.Open(b.pool("copy"))
	if err != nil {
		return err
	}
	defer dst.Close()
	_, err = copytree.Tree(ctx, src, dst, copytree.Options{Durability: durability})
	return err
}

// createSized makes a volume with room for the contents.
func (s sockets) createSized(
	ctx context.Context, name string, bytes int64, from *csi.VolumeContentSource,
) (string, error) {
	resp, err := s.Controller.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name:                name,
		CapacityRange:       &csi.CapacityRange{RequiredBytes: bytes},
		VolumeCapabilities:  []*csi.VolumeCapability{s.access()},
		VolumeContentSource: from,
		Parameters:          s.class,
	})
	return resp.GetVolume().GetVolumeId(), err
}

// restore makes a volume from a snapshot; name becomes its ID.
func (s sockets) restore(ctx context.Context, name *string, snapshot string) (err error) {
	*name, err = s.createSized(
		ctx,
		*name,
		volumeSize,
		&csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
			Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: snapshot},
		}},
	)
	return err
}

// clone makes a volume from another one; name becomes its ID.
func (s sockets) clone(ctx context.Context, name *string, volume string) (err error) {
	*name, err = s.createSized(
		ctx,
		*name,
		volumeSize,
		&csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
			Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: volume},
		}},
	)
	return err
}

func (s sockets) snapshot(ctx context.Context, volume string) (string, error) {
	resp, err := s.Controller.CreateSnapshot(ctx,
		&csi.CreateSnapshotRequest{Name: volumeName(), SourceVolumeId: volume})
	if err != nil {
		return "", err
	}
	if !resp.GetSnapshot().GetReadyToUse() {
		return "", fmt.Errorf("snapshot %s is not ready", resp.GetSnapshot().GetSnapshotId())
	}
	return resp.GetSnapshot().GetSnapshotId(), nil
}

func (s sockets) removeSnapshot(ctx context.Context, id string) error {
	_, err := s.Controller.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: id})
	return err
}
