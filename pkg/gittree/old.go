package gittree

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
)

// What begins so in the directory building is a tree that is being written, a tree that was
// replaced, or a file that is to lie beside a tree.
const (
	newPrefix   = "new-"
	oldPrefix   = "old-"
	asidePrefix = "aside-"
)

// RemoveOld removes the trees whose grace is over. It does what a Replace could not do any more
// after its exchange. It stops when the context ends; the next call goes on. What it removes is
// gone durably at some later time.
func (c *Content) RemoveOld(ctx context.Context, now time.Time) error {
	c.removing.Lock()
	defer c.removing.Unlock()
	err := c.describeAgain()
	if err != nil && !isOutOfSpace(err) {
		return err
	}
	if err := c.removeDue(ctx, now); err != nil || c.isDescribed() {
		return err
	}
	return c.describeAgain() // there may be room now
}

// describeAgain does what could not be done after an exchange.
func (c *Content) describeAgain() error {
	if c.isDescribed() {
		return nil
	}
	if err := c.describe(); err != nil {
		return fmt.Errorf("write %s: %w", CommitFile, outOfSpace(err))
	}
	return nil
}

// removeDue removes the trees whose grace is over, and leftovers.
func (c *Content) removeDue(ctx context.Context, now time.Time) error {
	names, err := c.listBuilding()
	if err != nil {
		return err
	}
	for _, name := range names {
		replaced, ok := replacedAt(name)
		isDue := ok && !c.inGrace(now.Sub(replaced)) || slices.Contains(c.leftovers, name)
		if !isDue {
			continue
		}
		if err := c.removeTree(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// inGrace takes a time that is far ahead for one from before the clock was set back.
func (c *Content) inGrace(age time.Duration) bool {
	return age < c.opts.Grace && age >= -c.opts.Grace
}

func (c *Content) isDescribed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.described
}

// removeTree removes an entry of the directory building. It is no error if it does not exist.
func (c *Content) removeTree(ctx context.Context, name string) error {
	if err := openat.NewRemover(nil).Remove(ctx, c.building, name); err != nil {
		return fmt.Errorf("remove %s/%s: %w", buildingDir, name, err)
	}
	return nil
}

// replacedAt returns when a tree of that name was replaced.
func replacedAt(name string) (time.Time, bool) {
	rest, ok := strings.CutPrefix(name, oldPrefix)
	if !ok {
		return time.Time{}, false
	}
	seconds, _, _ := strings.Cut(rest, "-")
	unixTime, err := strconv.ParseInt(seconds, 10, 64)
	return time.Unix(unixTime, 0), err == nil
}

// demote names a tree as one that was replaced at that time.
func (c *Content) demote(name string, at time.Time) error {
	old := fmt.Sprintf("%s%d-%08x", oldPrefix, at.Unix(), rand.Uint32()) //nolint:gosec // not a secret
	err := c.building.RenameNoReplace(name, c.building, old)
	if errors.Is(err, unix.ENOENT) { // the first tree replaced none
		return nil
	}
	return err
}

// demoteLeftovers names what a crash has left in the directory building, so that RemoveOld removes
// it. A tree with a commit may be one that pods had open: it gets its grace from now on. A btrfs
// that is full, or a quota there, refuses renames: then leftovers go without a grace, to make room.
func (c *Content) demoteLeftovers(now time.Time) error {
	names, err := c.listBuilding()
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, ok := replacedAt(name); ok {
			continue
		}
		at := time.Unix(0, 0)
		if c.isWhole(name) {
			at = now
		}
		err := c.demote(name, at)
		if err != nil && !isOutOfSpace(err) {
			return err
		}
		if err != nil {
			c.leftovers = append(c.leftovers, name)
		}
	}
	return nil
}

// isWhole reports whether a leftover is a tree with a commit.
func (c *Content) isWhole(name string) bool {
	tree, err := c.building.OpenUnmounted(name)
	if err != nil {
		return false
	}
	defer tree.Close()
	commit, err := commitOf(tree)
	return err == nil && commit != ""
}

// listBuilding returns the names in the directory building.
func (c *Content) listBuilding() ([]string, error) {
	// It has a position of its own.
	d, err := c.building.OpenDir(".")
	if err != nil {
		return nil, err
	}
	defer d.Close()
	var names []string
	buffer := make([]byte, openat.EntriesBuffer)
	for {
		entries, err := d.ReadEntries(buffer)
		if err != nil {
			return nil, &os.PathError{Op: "read", Path: buildingDir, Err: err}
		}
		if len(entries) == 0 {
			return names, nil
		}
		for _, e := range entries {
			names = append(names, e.Name)
		}
	}
}
