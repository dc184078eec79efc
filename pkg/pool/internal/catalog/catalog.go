// Package catalog has in memory what stands in a directory of a pool: the volumes, or the
// snapshots. A catalog is built from the tree at the start of the driver and changed after the
// disk, never before. It is made for hundreds of thousands of entries: each of them is kept once,
// and the two orders have pointers only.
package catalog

import (
	"sync"

	"github.com/tidwall/btree"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/ledger"
)

// Catalog has entries in the order of their directories and, of those that have an owner, in the
// order of their owners and then of their directories. Its methods may be called concurrently.
type Catalog struct {
	Locks

	weigh func(*Entry) int64

	mu      sync.RWMutex
	byDir   *btree.BTreeG[*Entry]
	byOwner *btree.BTreeG[*Entry]
	sum     int64
	// unfinished counts the entries of an owner that are being made.
	unfinished map[string]int
}

// New returns an empty catalog. Sum is the sum of weigh over all entries; weigh is never negative.
func New(weigh func(*Entry) int64) *Catalog {
	unlocked := btree.Options{NoLocks: true} // the mutex is the catalog's
	return &Catalog{
		weigh:   weigh,
		byDir:   btree.NewBTreeGOptions(func(a, b *Entry) bool { return a.Dir < b.Dir }, unlocked),
		byOwner: btree.NewBTreeGOptions(beforeByOwner, unlocked),
	}
}

func beforeByOwner(a, b *Entry) bool {
	if a.OwnerID != b.OwnerID {
		return a.OwnerID < b.OwnerID
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
	if e.OwnerID == "" {
		return
	}
	// Entries of one owner share the memory of the owner's name.
	if sibling := c.firstOfLocked(e.OwnerID); sibling != nil {
		e.OwnerID = sibling.OwnerID
	}
	c.byOwner.Set(e)
}

// Remove takes the entry of a directory out; an absent one is no error.
func (c *Catalog) Remove(dir string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old, found := c.byDir.Delete(&Entry{Dir: dir}); found {
		c.forgetLocked(old)
	}
}

// forgetLocked removes an entry from byOwner and from the sum.
func (c *Catalog) forgetLocked(old *Entry) {
	c.sum = max(0, c.sum-c.weigh(old))
	if old.OwnerID != "" {
		c.byOwner.Delete(old)
	}
}

func (c *Catalog) firstOfLocked(ownerID string) (first *Entry) {
	c.byOwner.Ascend(&Entry{OwnerID: ownerID}, func(e *Entry) bool {
		if e.OwnerID == ownerID {
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

// OwnedAfter is After for the entries of one owner.
func (c *Catalog) OwnedAfter(ownerID, dir string, limit int) []*Entry {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.ownedAfterLocked(ownerID, dir, limit)
}

func (c *Catalog) ownedAfterLocked(ownerID, dir string, limit int) []*Entry {
	var page []*Entry
	c.byOwner.Ascend(&Entry{OwnerID: ownerID, Dir: dir}, func(e *Entry) bool {
		if e.OwnerID != ownerID {
			return false
		}
		if len(page) < limit && e.Dir != dir {
			page = append(page, e)
		}
		return len(page) < limit
	})
	return page
}

// Owned lists all entries that have an owner, in the order of the owners.
func (c *Catalog) Owned() []*Entry {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.byOwner.Items()
}
