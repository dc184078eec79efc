package catalog

import (
	"fmt"
	"sync"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Name is a volume's or a snapshot's ID.
type Name interface {
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
func (l *Locks) Lock(name Name) (unlock func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.checkLocked(name); err != nil {
		return nil, err
	}
	if l.exclusive == nil {
		l.exclusive = make(map[string]struct{})
	}
	l.exclusive[name.Dir()] = struct{}{}
	return func() { l.unlock(name) }, nil
}

// LockUnshared takes the exclusive lock of a name that nobody shares. Errors: ErrBusy.
func (l *Locks) LockUnshared(name Name) (unlock func(), err error) {
	if unlock, err = l.Lock(name); err != nil {
		return nil, err
	}
	if err := l.CheckUnshared(name); err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

func (l *Locks) checkLocked(name Name) error {
	if _, taken := l.exclusive[name.Dir()]; taken {
		return fmt.Errorf("%w: %s is being created, expanded or deleted", volume.ErrBusy, name)
	}
	return nil
}

func (l *Locks) unlock(name Name) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.exclusive, name.Dir())
}

// Share takes a shared lock, until unshare is called once. Errors: ErrBusy while somebody has the
// exclusive one.
func (l *Locks) Share(name Name) (unshare func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.checkLocked(name); err != nil {
		return nil, err
	}
	if l.shared == nil {
		l.shared = make(map[string]int)
	}
	l.shared[name.Dir()]++
	return func() { l.unshare(name) }, nil
}

func (l *Locks) unshare(name Name) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.shared[name.Dir()]--; l.shared[name.Dir()] <= 0 {
		delete(l.shared, name.Dir())
	}
}

// CheckUnshared refuses a name that has shared locks. The caller has the exclusive lock, so no new
// shared lock can be taken. Errors: ErrBusy.
func (l *Locks) CheckUnshared(name Name) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.shared[name.Dir()]; n > 0 {
		return fmt.Errorf("%w: %s is being copied (%d copies): ask again when they have ended",
			volume.ErrBusy, name, n)
	}
	return nil
}
