package catalog_test

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/catalog"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

func weight(e *catalog.Entry) int64 { return e.PromisedBytes }

func newEntry(dir, parentID string, promisedBytes int64) *catalog.Entry {
	return &catalog.Entry{Dir: dir, ParentID: parentID, PromisedBytes: promisedBytes}
}

func dirs(page []*catalog.Entry) string {
	var names []string
	for _, e := range page {
		names = append(names, e.Dir)
	}
	return strings.Join(names, " ")
}

// Pages are in the order of the directories, in all and of one parent, whatever the order in which
// the entries came.
func TestPagesFollowTheDirectories(t *testing.T) {
	c := catalog.New(weight)
	c.Put(newEntry("d", "x", 1))
	c.Put(newEntry("a", "y", 2))
	c.Put(newEntry("c", "", 4))
	c.Put(newEntry("b", "x", 8))
	c.Put(newEntry("e", "xx", 16))
	for _, tc := range []struct{ title, got, want string }{
		{"all", dirs(c.After("", 9)), "a b c d e"},
		{"a page", dirs(c.After("a", 2)), "b c"},
		{"after what is not there", dirs(c.After("bb", 1)), "c"},
		{"after the last", dirs(c.After("e", 9)), ""},
		{"none", dirs(c.After("", 0)), ""},
		{"of one", dirs(c.ChildrenAfter("x", "", 9)), "b d"},
		{"of one, a page", dirs(c.ChildrenAfter("x", "b", 1)), "d"},
		{"of nobody", dirs(c.ChildrenAfter("z", "", 9)), ""},
		{"that belong", dirs(c.AllChildren()), "b d e a"},
	} {
		if tc.got != tc.want {
			t.Errorf("%s: %q, want %q", tc.title, tc.got, tc.want)
		}
	}
	if c.Len() != 5 || c.Sum() != 31 {
		t.Errorf("%d entries that weigh %d, want 5 and 31", c.Len(), c.Sum())
	}
}

// After Put, neither of the two indexes has the old entry of the directory.
func TestPutReplacesInBothOrders(t *testing.T) {
	c := catalog.New(weight)
	c.Put(newEntry("a", "x", 1))
	c.Put(newEntry("a", "y", 2))
	if e, ok := c.Get("a"); !ok || e.ParentID != "y" || e.PromisedBytes != 2 {
		t.Errorf("Get: %+v, %v", e, ok)
	}
	if got := dirs(
		c.ChildrenAfter("x", "", 9),
	) + "/" + dirs(
		c.ChildrenAfter("y", "", 9),
	); got != "/a" ||
		c.Sum() != 2 {
		t.Errorf("%q, %d: want %q, 2", got, c.Sum(), "/a")
	}
	c.Remove("a")
	c.Remove("a")
	if _, ok := c.Get("a"); ok || c.Len() != 0 || c.Sum() != 0 || len(c.AllChildren()) != 0 {
		t.Errorf(
			"after Remove: %d entries that weigh %d, %d belong",
			c.Len(),
			c.Sum(),
			len(c.AllChildren()),
		)
	}
}

// The pages of a list have each entry once, in order.
func TestPagesCoverALargeCatalogOnce(t *testing.T) {
	c := catalog.New(weight)
	const n = 10_000
	for i := range n {
		c.Put(newEntry(fmt.Sprintf("v%05d", (i*7919)%n), strconv.Itoa(i%10), 1))
	}
	var all []string
	for after := ""; ; {
		page := c.After(after, 37)
		if len(page) == 0 {
			break
		}
		for _, e := range page {
			all = append(all, e.Dir)
		}
		after = page[len(page)-1].Dir
	}
	if len(all) != n || !slices.IsSorted(all) || len(c.ChildrenAfter("3", "", n)) != n/10 {
		t.Errorf(
			"%d names, sorted: %v; %d of one",
			len(all),
			slices.IsSorted(all),
			len(c.ChildrenAfter("3", "", n)),
		)
	}
}

type name string

func (n name) String() string { return "volume " + string(n) }
func (n name) Dir() string    { return string(n) }

// TestLocksRefuseAtOnce tries every pair of locks of one name.
func TestLocksRefuseAtOnce(t *testing.T) {
	var l catalog.Locks
	unlock, err := l.Lock(name("v"))
	if err != nil {
		t.Fatal(err)
	}
	_, second := l.Lock(name("v"))
	_, shared := l.LockShared(name("v"))
	if !errors.Is(second, volume.ErrBusy) || !errors.Is(shared, volume.ErrBusy) {
		t.Errorf("beside an exclusive lock: %v, %v: want ErrBusy", second, shared)
	}
	if other, err := l.Lock(name("w")); err != nil {
		t.Errorf("another name: %v", err)
	} else {
		other()
	}
	unlock()
	unlockShared, err := l.LockShared(name("v"))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := l.LockShared(name("v")); err != nil {
		t.Errorf("beside a shared lock: %v", err)
	} else {
		again()
	}
	if _, err := l.LockUnshared(name("v")); !errors.Is(err, volume.ErrBusy) {
		t.Errorf("unshared, beside a shared lock: %v, want ErrBusy", err)
	}
	beside, err := l.Lock(name("v"))
	if err != nil {
		t.Fatalf("beside a shared lock that was there: %v", err)
	}
	if err := l.CheckUnshared(name("v")); !errors.Is(err, volume.ErrBusy) {
		t.Errorf("CheckUnshared: %v, want ErrBusy", err)
	}
	unlockShared()
	if err := l.CheckUnshared(name("v")); err != nil {
		t.Errorf("CheckUnshared, after the last: %v", err)
	}
	beside()
	if unlock, err := l.LockUnshared(name("v")); err != nil {
		t.Errorf("after all: %v", err)
	} else {
		unlock()
	}
}

func TestParentHasNoMoreEntriesThanAllowedWithTheUnfinishedOnes(t *testing.T) {
	c := catalog.New(weight)
	c.Put(newEntry("a", "parent", 0))
	c.Put(newEntry("b", "other", 0))
	done, err := c.AdmitChild("parent", 2)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.AdmitChild("parent", 2); !errors.Is(err, volume.ErrTooMany) {
		t.Errorf("one more: %v, want ErrTooMany", err)
	}
	for _, parent := range []string{"other", "third"} {
		if _, err := c.AdmitChild(parent, 2); err != nil {
			t.Errorf("%s: %v", parent, err)
		}
	}
	done()
	if _, err := c.AdmitChild("parent", 2); err != nil {
		t.Errorf("after the end of the first: %v", err)
	}
	c.Put(newEntry("c", "parent", 0))
	if _, err := c.AdmitChild("parent", 2); !errors.Is(err, volume.ErrTooMany) {
		t.Errorf("with two in the catalog: %v, want ErrTooMany", err)
	}
	if _, err := c.AdmitChild("parent", 0); err != nil {
		t.Errorf("without a limit: %v", err)
	}
}
