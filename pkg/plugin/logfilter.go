package plugin

import (
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/reach"
)

// logFilter finds the lines about a volume.
type logFilter struct {
	names    []string
	requests map[string]bool
}

func newLogFilter(names []string) *logFilter {
	return &logFilter{names: names, requests: map[string]bool{}}
}

// requestID is in both formats of the log.
var requestID = regexp.MustCompile(`"?requestID"?[=:]\s?"?([^",\s}]+)`)

// requestOf is the ID of the call that a line is of; empty: of none.
func requestOf(l reach.Line) string {
	if match := requestID.FindStringSubmatch(l.Text); match != nil {
		return match[1]
	}
	return ""
}

// matches says whether a line names the volume, or is of a call of which a line did.
func (f *logFilter) matches(l reach.Line) bool {
	id := requestOf(l)
	for _, name := range f.names {
		if strings.Contains(l.Text, name) {
			if id != "" {
				f.requests[id] = true
			}
			return true
		}
	}
	return id != "" && f.requests[id]
}

// logKeeper keeps of logs the lines about a volume while they are read, also those of a call that
// come before the one that names the volume. Its methods may be called concurrently.
type logKeeper struct {
	mu     sync.Mutex
	filter *logFilter
	limit  int // bytes of kept and of waiting each
	// kept are about the volume; cut is how many more were, beyond the limit.
	kept      []reach.Line
	keptBytes int
	cut       int
	// waiting are the last lines of calls that no line has said to be about the volume so far.
	waiting      []reach.Line
	waitingBytes int
}

func newLogKeeper(f *logFilter, limit int) *logKeeper {
	return &logKeeper{filter: f, limit: limit}
}

// lineOverhead is about what a line takes beside its text.
const lineOverhead = 96

func sizeOf(l reach.Line) int { return len(l.Text) + lineOverhead }

func (k *logKeeper) add(l reach.Line) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.filter.matches(l) {
		k.keep(l)
		return
	}
	if requestOf(l) == "" {
		return
	}
	k.waiting = append(k.waiting, l)
	for k.waitingBytes += sizeOf(l); k.waitingBytes > k.limit; {
		first := k.waiting[0]
		k.waiting[0] = reach.Line{} // the text can be freed
		k.waiting, k.waitingBytes = k.waiting[1:], k.waitingBytes-sizeOf(first)
		if k.filter.matches(first) {
			k.keep(first)
		}
	}
}

func (k *logKeeper) keep(l reach.Line) {
	if k.keptBytes += sizeOf(l); k.keptBytes > k.limit {
		k.cut++
		return
	}
	k.kept = append(k.kept, l)
}

// lines are the lines about the volume in order of time, and how many more there were.
func (k *logKeeper) lines() (lines []reach.Line, cut int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, l := range k.waiting {
		if k.filter.matches(l) {
			k.keep(l)
		}
	}
	k.waiting, k.waitingBytes = nil, 0
	slices.SortStableFunc(k.kept, func(a, b reach.Line) int { return a.Time.Compare(b.Time) })
	return k.kept, k.cut
}
