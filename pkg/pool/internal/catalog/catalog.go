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

// Entry is one thing of a catalog. It never changes: Put replaces it by another one.
type Entry[T any] struct {
	// Dir is the directory of the thing, and its key.
	Dir string
	// Of names what the thing belongs to, in the second order; "" is nothing.
	Of    string
	Value T
}

// Catalog has entries in the order of their directories and, of those that belong to something, in
// the order of what that is and then of their directories. Its methods may be called concurrently.
type Catalog[T any] struct {
	Locks

	weigh func(T) int64

	mu    sync.RWMutex
	byDir *btree.BTreeG[*Entry[T]]
	byOf  *btree.BTreeG[*Entry[T]]
	sum   int64
}

// New returns an empty catalog. Sum is the sum of weigh over all entries; weigh is never negative.
func New[T any](weigh func(T) int64) *Catalog[T] {
	unlocked := btree.Options{NoLocks: true} // the mutex is the catalog's
	return &Catalog[T]{
		weigh: weigh,
		byDir: btree.NewBTreeGOptions(func(a, b *Entry[T]) bool { return a.Dir < b.Dir }, unlocked),
		byOf:  btree.NewBTreeGOptions(beforeByOf[T], unlocked),
	}
}

func beforeByOf[T any](a, b *Entry[T]) bool {
	if a.Of != b.Of {
		return a.Of < b.Of
	}
	return a.Dir < b.Dir
}

// Get returns the entry of a directory. The caller does not change the entry.
func (c *Catalog[T]) Get(dir string) (*Entry[T], bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.byDir.Get(&Entry[T]{Dir: dir})
}

// Put adds an entry, or replaces the one of its directory. The caller does not change the entry
// afterwards.
func (c *Catalog[T]) Put(e *Entry[T]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old, replaced := c.byDir.Set(e); replaced {
		c.forgetLocked(old)
	}
	c.sum = ledger.Sum(c.sum, c.weigh(e.Value))
	if e.Of == "" {
		return
	}
	// Entries of one owner share the memory of the owner's name.
	if sibling := c.firstOfLocked(e.Of); sibling != nil {
		e.Of = sibling.Of
	}
	c.byOf.Set(e)
}

// Remove takes the entry of a directory out; an absent one is no error.
func (c *Catalog[T]) Remove(dir string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old, found := c.byDir.Delete(&Entry[T]{Dir: dir}); found {
		c.forgetLocked(old)
	}
}

// forgetLocked removes an entry from byOf and from the sum.
func (c *Catalog[T]) forgetLocked(old *Entry[T]) {
	c.sum = max(0, c.sum-c.weigh(old.Value))
	if old.Of != "" {
		c.byOf.Delete(old)
	}
}

func (c *Catalog[T]) firstOfLocked(of string) (first *Entry[T]) {
	c.byOf.Ascend(&Entry[T]{Of: of}, func(e *Entry[T]) bool {
		if e.Of == of {
			first = e
		}
		return false
	})
	return first
}

// Len is the number of entries.
func (c *Catalog[T]) Len() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.byDir.Len()
}

// Sum is what all entries weigh together.
func (c *Catalog[T]) Sum() int64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.sum
}

// After lists at most limit entries whose directory is greater than the given one. Its cost is that
// of the page.
func (c *Catalog[T]) After(dir string, limit int) []*Entry[T] {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var page []*Entry[T]
	c.byDir.Ascend(&Entry[T]{Dir: dir}, func(e *Entry[T]) bool {
		if len(page) < limit && e.Dir != dir {
			page = append(page, e)
		}
		return len(page) < limit
	})
	return page
}

// OfAfter is After for the entries that belong to one thing.
func (c *Catalog[T]) OfAfter(of, dir string, limit int) []*Entry[T] {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var page []*Entry[T]
	c.byOf.Ascend(&Entry[T]{Of: of, Dir: dir}, func(e *Entry[T]) bool {
		if e.Of != of {
			return false
		}
		if len(page) < limit && e.Dir != dir {
			page = append(page, e)
		}
		return len(page) < limit
	})
	return page
}

// Belonging lists all entries that belong to something, in the second order.
func (c *Catalog[T]) Belonging() []*Entry[T] {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.byOf.Items()
}
