package catalog

import (
	"fmt"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// AdmitChild refuses one more child of a parent that has as many entries as are allowed; 0 allows
// any number. The admitted one counts until done is called once: by then the entry is in the
// catalog, or nobody makes it any more. Errors: ErrTooMany.
func (c *Catalog) AdmitChild(parentID string, most int) (done func(), err error) {
	if most == 0 {
		return func() {}, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n, unfinished := len(c.childrenAfterLocked(parentID, "", most)), c.unfinished[parentID]
	if n+unfinished >= most {
		return nil, fmt.Errorf("%w: %d are there and %d are unfinished, allowed are %d",
			volume.ErrTooMany, n, unfinished, most)
	}
	if c.unfinished == nil {
		c.unfinished = make(map[string]int)
	}
	c.unfinished[parentID]++
	return func() { c.removeUnfinished(parentID) }, nil
}

func (c *Catalog) removeUnfinished(parentID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.unfinished[parentID]--; c.unfinished[parentID] <= 0 {
		delete(c.unfinished, parentID)
	}
}
