package backend

import (
	"fmt"
	"sync"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Tags gives out the tags of one pool, each to one volume. It knows those that the pool's own
// volumes have; whether anybody else of the filesystem has one, the filesystem must say.
type Tags struct {
	first Tag
	count uint64

	mu   sync.Mutex
	used map[Tag]struct{}
	next Tag
}

// NewTags gives out count tags from first on. The seed says where the search for a free one begins:
// two pools of one filesystem begin apart.
func NewTags(first Tag, count, seed uint64) *Tags {
	return &Tags{
		first: first,
		count: count,
		used:  make(map[Tag]struct{}),
		next:  first + Tag(seed%count),
	}
}

// Contains says whether a tag is one that could have been given out.
func (t *Tags) Contains(tag Tag) bool { return tag >= t.first && uint64(tag-t.first) < t.count }

// Claim finds a tag that no volume of the pool has, and that the filesystem says is free. Errors:
// ErrNoSpace when there is none.
func (t *Tags) Claim(isFree func(Tag) (bool, error)) (Tag, error) {
	for range t.count {
		tag, ok := t.advance()
		if !ok {
			continue
		}
		free, err := isFree(tag)
		if free && err == nil {
			return tag, nil
		}
		t.Free(tag)
		if err != nil {
			return 0, err
		}
	}
	return 0, fmt.Errorf("%w: every quota ID from %d on is taken", volume.ErrNoSpace, t.first)
}

// advance takes the next tag unless it is used.
func (t *Tags) advance() (Tag, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	tag := t.next
	t.next = t.first + Tag(uint64(t.next-t.first+1)%t.count)
	if _, taken := t.used[tag]; taken {
		return 0, false
	}
	t.used[tag] = struct{}{}
	return tag, true
}

// Hold takes one tag; false if a volume has it already, or it could not have been given out.
func (t *Tags) Hold(tag Tag) bool {
	if !t.Contains(tag) {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	_, taken := t.used[tag]
	t.used[tag] = struct{}{}
	return !taken
}

// Free lets a tag be given out again.
func (t *Tags) Free(tag Tag) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.used, tag)
}
