package ledger

// others is what other users use of the filesystem, in bytes.
type others struct {
	bytes int64
	// known is what earlier processes knew; 0 where a backend counts the blocks of volumes.
	known int64
	// unwritten is how many promised bytes were not written at the start, as far as a backend counts
	// them.
	unwritten int64
}

// observe corrects what others use by what the filesystem says now. The caller has the mutex.
func (l *Ledger) observe(r Room) {
	if l.committed == 0 && l.trash == 0 {
		// The pool has nothing: all used bytes are others', or are still being freed.
		l.others.bytes = r.Used
	}
	// The first measurement may include data that was being freed.
	l.others.bytes = min(l.others.bytes, r.Used)
}

// AddUnwritten adds promised bytes that a volume has not written, as far as a backend counts them.
// The start calls it before MeasureOthers.
func (l *Ledger) AddUnwritten(bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.others.unwritten = Sum(l.others.unwritten, bytes)
}

// RecallOthers says what earlier processes knew of what others use. The start calls it before
// MeasureOthers.
func (l *Ledger) RecallOthers(bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.others.known = bytes
}

// MeasureOthers estimates, at the start, what others use: the used bytes without the bytes of the
// volumes and snapshots. The estimate is too low in two cases: blocks that several volumes share
// count for each of them; and where no backend counts blocks, as in directories of a filesystem
// without quotas, the promised bytes of a volume count as written. So there it is at least what
// earlier processes knew.
func (l *Ledger) MeasureOthers(r Room) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.others.bytes = l.usedByOthers(r, l.others.unwritten)
}

// MeasureOthersAgain corrects the estimate after a purge of data without a record, which
// MeasureOthers has counted as others'. unwritten is how many promised bytes are not written now.
// The estimate can only fall, so what others have written since the start is not added.
func (l *Ledger) MeasureOthersAgain(r Room, unwritten int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.observe(r)
	l.others.bytes = min(l.others.bytes, l.usedByOthers(r, unwritten))
}

// usedByOthers returns what others use, if that many of the promised bytes are not written.
func (l *Ledger) usedByOthers(r Room, unwritten int64) int64 {
	measured := max(0, r.Used-max(0, Sum(l.committed, l.trash)-unwritten))
	return max(measured, min(l.others.known, r.Used)) // others may have removed something
}

// Others returns what others use, as it was estimated last.
func (l *Ledger) Others() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.others.bytes
}
