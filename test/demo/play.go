package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/csi-hostpath/csi-hostpath/test/process"
)

const (
	words   = "written in pod A"
	setting = "colour = blue\n"
	// purgeTimeout bounds the wait for data that is removed in the background.
	purgeTimeout = 10 * time.Second
)

// The pods, with UIDs of the form that kubelet's have.
var (
	podA = pod{name: "A", uid: "a4f1c0de-0000-4000-8000-00000000000a"}
	podB = pod{name: "B", uid: "b0071e55-0000-4000-8000-00000000000b"}
)

// pod is a pod as kubelet's directory has it.
type pod struct{ name, uid string }

// target is where kubelet has a PV mounted for the pod.
func (p pod) target(kubelet, pv string) string {
	return filepath.Join(kubelet, "pods", p.uid, "volumes", "kubernetes.io~csi", pv, "mount")
}

// action is a step of the play: what it is, and how it is done. It returns lines to show.
type action struct {
	title string
	do    func(context.Context) ([]string, error)
}

// play goes through all chapters.
func (s *scene) play(ctx context.Context) error {
	books := &claim{scene: s, pv: "pvc-books", kind: "DirectoryOrCreate"}
	config := &claim{scene: s, pv: "pvc-app-conf", kind: "FileOrCreate"}
	chapters := []struct {
		title string
		steps []action
	}{
		{"A driver with an empty pool", s.beginning()},
		{"A directory that two pods share", books.sharing()},
		{"A snapshot, and a volume made from it", books.snapshotting()},
		{"The driver crashes", s.crash(books)},
		{"The pods go, and the volume after them", books.ending(podA, podB)},
		{"A volume that is a file", config.asFile()},
		{"What is left", s.end()},
	}
	fmt.Fprintf(s.print.out,
		"csi-hostpath as kubelet meets it: a process behind a socket. Below, %s is %s.\n", elided, s.dir)
	for _, chapter := range chapters {
		s.print.title(chapter.title)
		if err := s.perform(ctx, chapter.steps); err != nil {
			return err
		}
	}
	return nil
}

func (s *scene) perform(ctx context.Context, steps []action) error {
	for _, step := range steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		start := time.Now()
		notes, err := step.do(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", step.title, err)
		}
		s.print.step(time.Since(start), step.title)
		for _, line := range notes {
			s.print.note(line)
		}
	}
	return nil
}

func (s *scene) beginning() []action {
	return []action{
		{"build the driver", func(ctx context.Context) (_ []string, err error) {
			s.binary, err = process.Build(ctx, s.dir)
			return nil, err
		}},
		{"start it, wait until Probe says ready", func(ctx context.Context) ([]string, error) {
			if err := s.start(ctx); err != nil {
				return nil, err
			}
			return []string{
				fmt.Sprintf("process %d made and opened the pool %s", s.driver.PID(), s.pool()),
			}, nil
		}},
	}
}

// crash shows that mounts belong to the kernel, and what is published to the mount table.
func (s *scene) crash(c *claim) []action {
	return []action{
		{"kill -9 the driver", func(context.Context) ([]string, error) { return nil, s.kill() }},
		{"pod B reads, with no driver there", c.read(podB, words)},
		{"start the driver again", func(ctx context.Context) ([]string, error) {
			if err := s.start(ctx); err != nil {
				return nil, err
			}
			return []string{fmt.Sprintf("process %d", s.driver.PID())}, nil
		}},
		{"pod B reads again, through the same mount", c.read(podB, words)},
		{"DeleteVolume is refused", c.deleteRefused},
	}
}

// end counts what nobody has deleted, and stops the driver.
func (s *scene) end() []action {
	return []action{
		{"look for mounts, volumes and trash", s.lookForRests},
		{"stop the driver with SIGTERM", func(context.Context) ([]string, error) {
			return []string{"exit code 0"}, s.stop()
		}},
	}
}

// lookForRests gives the purger time: it works in the background.
func (s *scene) lookForRests(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, purgeTimeout)
	defer cancel()
	for {
		entries, err := s.poolEntries()
		if err != nil {
			return nil, err
		}
		if len(entries) == 0 {
			break
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("left in the pool: %v", entries)
		case <-time.After(time.Millisecond):
		}
	}
	points, err := s.mounts()
	if err == nil && len(points) > 0 {
		err = fmt.Errorf("still mounted: %v", points)
	}
	return []string{"0 mounts; volumes/, snapshots/, tmp/ and trash/ are empty"}, err
}

// poolEntries lists what is in the pool besides its own layout.
func (s *scene) poolEntries() (entries []string, err error) {
	for _, name := range []string{"volumes", "snapshots", "tmp", "trash"} {
		root := filepath.Join(s.pool(), name)
		err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
			if path != root {
				entries = append(entries, strings.TrimPrefix(path, s.pool()+"/"))
			}
			if errors.Is(err, os.ErrNotExist) { // purged a moment ago
				return nil
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return entries, nil
}

// refusal turns the error that must come into a line to show.
func refusal(err error) (string, error) {
	if status.Code(err) != codes.FailedPrecondition {
		return "", fmt.Errorf("want %s, got %w", codes.FailedPrecondition, err)
	}
	return codes.FailedPrecondition.String() + ": " + status.Convert(err).Message(), nil
}

// accessMode is what Kubernetes sends for ReadWriteOnce to a driver with SINGLE_NODE_MULTI_WRITER.
func accessMode() *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
		AccessMode: &csi.VolumeCapability_AccessMode{
			Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER,
		},
	}
}
