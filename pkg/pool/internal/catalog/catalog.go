// Package catalog has in memory what stands in a directory of a pool: the volumes, or the
// snapshots. A catalog is built from the tree at the start of the driver and changed after the
// disk, never before. It is made for hundreds of thousands of entries: each of them is kept once,
// and the two orders have pointers only.
package catalog

import (
	"sync"

	"github.com/tidwall/btree"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/ledger"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Catalog has entries in the order of their directories and, of those that have a parent, in the
// order of their parents and then of their directories. Its methods may be called concurrently.
type Catalog struct {
	Locks

	weigh func(*Entry) int64

	mu       sync.RWMutex
	byDir    *btree.BTreeG[*Entry]
	byParent *btree.BTreeG[*Entry]
	sum      int64
	// unfinished counts the entries of a parent that are being made.
	unfinished map[string]int
	groups     groups
	// damaged has the damaged entries that may be of a group, and their groups (ClaimDamaged).
	damaged map[string]volume.SnapshotGroup
}

// New returns an empty catalog. Sum is the sum of weigh over all entries; weigh is never negative.
func New(weigh func(*Entry) int64) *Catalog {
	unlocked := btree.Options{NoLocks: true} // the mutex is the catalog's
	return &Catalog{
		weigh:    weigh,
		groups:   groups{},
		damaged:  map[string]volume.SnapshotGroup{},
		byDir:    btree.NewBTreeGOptions(func(a, b *Entry) bool { return a.Dir < b.Dir }, unlocked),
		byParent: btree.NewBTreeGOptions(beforeByParent, unlocked),
	}
}

func beforeByParent(a, b *Entry) bool {
	if a.ParentID != b.ParentID {
		return a.ParentID < b.ParentID
	}
	return a.Dir < b.Dir
}

// Get returns the entry of a directory. The caller does not change the entry.
func (c *Catalog) Get(dir string) (*Entry, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.byDir.Get(&Entry{Dir: dir})
}

// Put adds an entry, or replaces the one of its directory. The caller does not change the entry
// afterwards.
func (c *Catalog) Put(e *Entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old, replaced := c.byDir.Set(e); replaced {
		c.forgetLocked(old)
	}
	c.sum = ledger.Sum(c.sum, c.weigh(e))
	c.groups.add(e.Group())
	if e.Damaged() != nil && volume.IsMemberDir(e.Dir) {
		c.damaged[e.Dir] = volume.SnapshotGroup{}
	}
	if e.ParentID == "" {
		return
	}
	// Children of one parent share the memory of its ID.
	if sibling := c.firstOfLocked(e.ParentID); sibling != nil {
		e.ParentID = sibling.ParentID
	}
	c.byParent.Set(e)
}

// Remove takes the entry of a directory out; an absent one is no error.
func (c *Catalog) Remove(dir string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old, found := c.byDir.Delete(&Entry{Dir: dir}); found {
		c.forgetLocked(old)
	}
}

// forgetLocked removes an entry from byParent, from its group and from the sum.
func (c *Catalog) forgetLocked(old *Entry) {
	c.sum = max(0, c.sum-c.weigh(old))
	c.groups.remove(old.Group())
	c.groups.remove(c.damaged[old.Dir])
	delete(c.damaged, old.Dir)
	if old.ParentID != "" {
		c.byParent.Delete(old)
	}
}

func (c *Catalog) firstOfLocked(parentID string) (first *Entry) {
	c.byParent.Ascend(&Entry{ParentID: parentID}, func(e *Entry) bool {
		if e.ParentID == parentID {
			first = e
		}
		return false
	})
	return first
}

// Len is the number of entries.
func (c *Catalog) Len() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.byDir.Len()
}

// Sum is what all entries weigh together.
func (c *Catalog) Sum() int64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.sum
}

// After lists at most limit entries whose directory is greater than the given one. Its cost is that
// of the page.
func (c *Catalog) After(dir string, limit int) []*Entry {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var page []*Entry
	c.byDir.Ascend(&Entry{Dir: dir}, func(e *Entry) bool {
		if len(page) < limit && e.Dir != dir {
			page = append(page, e)
		}
		return len(page) < limit
	})
	return page
}

// ChildrenAfter is After for the children of one parent.
func (c *Catalog) ChildrenAfter(parentID, dir string, limit int) []*Entry {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.childrenAfterLocked(parentID, dir, limit)
}

func (c *Catalog) childrenAfterLocked(parentID, dir string, limit int) []*Entry {
	var page []*Entry
	c.byParent.Ascend(&Entry{ParentID: parentID, Dir: dir}, func(e *Entry) bool {
		if e.ParentID != parentID {
			return false
		}
		if len(page) < limit && e.Dir != dir {
			page = append(page, e)
		}
		return len(page) < limit
	})
	return page
}

// All lists all entries in the order of their directories.
func (c *Catalog) All() []*Entry {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.byDir.Items()
}

// AllChildren lists all entries that have a parent, in the order of the parents.
func (c *Catalog) AllChildren() []*Entry {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.byParent.Items()
}
