package pool

import (
	"fmt"
	"sync"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// identified is a volume's or a snapshot's ID.
type identified interface {
	fmt.Stringer
	Dir() string
}

// claims says who works on what. A claim is for one operation that changes a thing; a hold keeps a
// thing from being deleted, and an image from being expanded, while something is copied from it,
// and there may be many.
type claims struct {
	mu      sync.Mutex
	claimed map[string]struct{}
	held    map[string]int
}

// claim reserves a directory's name for one operation that changes it, until unclaim. Errors:
// ErrBusy.
func (c *claims) claim(id identified) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.checkUnclaimed(id); err != nil {
		return err
	}
	if c.claimed == nil {
		c.claimed = make(map[string]struct{})
	}
	c.claimed[id.Dir()] = struct{}{}
	return nil
}

func (c *claims) checkUnclaimed(id identified) error {
	if _, taken := c.claimed[id.Dir()]; taken {
		return fmt.Errorf("%w: %s is being created, expanded or deleted", volume.ErrBusy, id)
	}
	return nil
}

func (c *claims) unclaim(id identified) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.claimed, id.Dir())
}

// hold keeps the holder of a later claim from deleting, until unhold. Errors: ErrBusy while
// somebody has a claim.
func (c *claims) hold(id identified) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.checkUnclaimed(id); err != nil {
		return err
	}
	if c.held == nil {
		c.held = make(map[string]int)
	}
	c.held[id.Dir()]++
	return nil
}

func (c *claims) unhold(id identified) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held[id.Dir()]--; c.held[id.Dir()] <= 0 {
		delete(c.held, id.Dir())
	}
}

// checkUnheld is for who has the claim: nobody can hold it any more. Errors: ErrBusy.
func (c *claims) checkUnheld(id identified) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.held[id.Dir()]; n > 0 {
		return fmt.Errorf("%w: %s is being copied (%d copies): ask again when they have ended",
			volume.ErrBusy, id, n)
	}
	return nil
}
