package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestCreatedGroupsAreRemovedWithAllBelow(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes control groups")
	}
	root := fmt.Sprintf("csi-hostpath-test-%d", os.Getpid())
	t.Cleanup(func() {
		if err := Remove(root); err != nil {
			t.Error(err)
		}
	})
	// Twice: what is there is kept.
	for range 2 {
		if err := Create(root + "/node/system"); err != nil {
			t.Fatal(err)
		}
	}
	hierarchies, err := Hierarchies()
	if err != nil {
		t.Fatal(err)
	}
	for _, hierarchy := range hierarchies {
		if _, err := os.Stat(filepath.Join(hierarchy, root, "node/system/cgroup.procs")); err != nil {
			t.Error(err)
		}
	}
	if err := Remove(root); err != nil {
		t.Fatal(err)
	}
	for _, hierarchy := range hierarchies {
		if _, err := os.Stat(filepath.Join(hierarchy, root)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there: %v", filepath.Join(hierarchy, root), err)
		}
	}
}
