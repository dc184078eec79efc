package catalog

import (
	"fmt"
	"sync"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// ID is a volume ID or a snapshot ID.
type ID interface {
	fmt.Stringer
	// Dir is the directory, whether there is one yet or not.
	Dir() string
}

// Locks are the locks of names. No call waits: if a lock is taken, the second caller gets ErrBusy.
// An operation that changes a thing takes an exclusive lock. A copy takes a shared lock, which
// keeps its source as it is; a name may have many shared locks. An exclusive lock may be taken
// beside existing shared locks, because not every change disturbs a copy; a change that does calls
// CheckUnshared.
type Locks struct {
	mu        sync.Mutex
	exclusive map[string]struct{}
	shared    map[string]int
}

// Lock takes the exclusive lock, until unlock is called once. Errors: ErrBusy while somebody else
// has it.
func (l *Locks) Lock(id ID) (unlock func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.checkLocked(id); err != nil {
		return nil, err
	}
	if l.exclusive == nil {
		l.exclusive = make(map[string]struct{})
	}
	l.exclusive[id.Dir()] = struct{}{}
	return func() { l.unlock(id) }, nil
}

// LockUnshared takes the exclusive lock of a name that has no shared locks. Errors: ErrBusy.
func (l *Locks) LockUnshared(id ID) (unlock func(), err error) {
	if unlock, err = l.Lock(id); err != nil {
		return nil, err
	}
	if err := l.CheckUnshared(id); err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

func (l *Locks) checkLocked(id ID) error {
	if _, taken := l.exclusive[id.Dir()]; taken {
		return fmt.Errorf("%w: another call is changing %s", volume.ErrBusy, id)
	}
	return nil
}

func (l *Locks) unlock(id ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.exclusive, id.Dir())
}

// LockShared takes a shared lock, until unlock is called once. Errors: ErrBusy while somebody has
// the exclusive one.
func (l *Locks) LockShared(id ID) (unlock func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.checkLocked(id); err != nil {
		return nil, err
	}
	if l.shared == nil {
		l.shared = make(map[string]int)
	}
	l.shared[id.Dir()]++
	return func() { l.unlockShared(id) }, nil
}

func (l *Locks) unlockShared(id ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.shared[id.Dir()]--; l.shared[id.Dir()] <= 0 {
		delete(l.shared, id.Dir())
	}
}

// CheckUnshared refuses a name that has shared locks. The caller has the exclusive lock, so no new
// shared lock can be taken. Errors: ErrBusy.
func (l *Locks) CheckUnshared(id ID) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.shared[id.Dir()]; n > 0 {
		return fmt.Errorf("%w: %s is being copied (%d copies): ask again when they have ended",
			volume.ErrBusy, id, n)
	}
	return nil
}
