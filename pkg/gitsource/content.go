package gitsource

import (
	"errors"
	"sync"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/gittree"
	"github.com/csi-hostpath/csi-hostpath/pkg/gitwire"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// content is the content that some targets show. The lock of Contents guards it.
type content struct {
	id     volume.ID
	name   volume.Name
	source volume.GitSource // but for the period: each user has one

	// disk is locked while the tree is open. It is taken before the lock of Contents.
	disk sync.Mutex

	users map[mount.Target]user
	// unusedSince is when the last user went.
	unusedSince time.Time
	// isLoaded: commit is what the volume has. Empty: it has no tree yet.
	isLoaded   bool
	commit     string
	isDeleting bool
	// cleanAt is when replaced trees are to be removed; zero: there are none. Only who has locked the
	// disk changes it, so it is never that of an exchange that others do not know yet.
	cleanAt time.Time

	running *fetch
	timer   *time.Timer
	// lastTried is when the last fetch has ended that says something of the content; zero: there was
	// none in this process.
	lastTried time.Time
	// lastFetched is when the last fetch has succeeded, with or without news; zero: none has in this
	// process.
	lastFetched time.Time
	// failures is how many fetches have failed in a row; failingSince is when the first of them did.
	failures     int
	failingSince time.Time
	lastErr      error
	verdicts     map[proof]verdict
}

// user is a target.
type user struct {
	credentials gitwire.Credentials
	proof       proof
	rule        Rule
	period      time.Duration
	// since orders users by when they have come with their credentials.
	since int64
	// reported is the cause that Report has told last; empty: none since the content was fetched.
	reported string
}

// verdict is what became of the last fetch with certain credentials.
type verdict struct {
	err      error
	at       time.Time
	failures int
}

// fetch is one that is under way.
type fetch struct {
	began time.Time
	done  chan struct{}
}

func newContent(id volume.ID) *content {
	return &content{
		id: id, unusedSince: time.Now(), users: make(map[mount.Target]user),
		verdicts: make(map[proof]verdict),
	}
}

// forgetVerdicts forgets secrets that nobody has had for a while. A pod that the server has refused
// comes again soon, and so does one that has waited in vain; neither begins anew.
func (c *content) forgetVerdicts(now time.Time) {
	has := make(map[proof]bool, len(c.users))
	for _, u := range c.users {
		has[u.proof] = true
	}
	for p, v := range c.verdicts {
		if !has[p] && now.Sub(v.at) >= verdictTime {
			delete(c.verdicts, p)
		}
	}
}

// verdictTime is longer than kubelet's pause before it repeats a publish (maxDurationBeforeRetry of
// Kubernetes pkg/util/goroutinemap/exponentialbackoff: a little over two minutes).
const verdictTime = 10 * time.Minute

// isOfOneSecret says that an error of the last fetch says nothing of the content: the server has
// refused one secret, and there is another one that it has not refused.
func (c *content) isOfOneSecret(err error) bool {
	return isDenied(err) && !c.isRefused(c.refresher())
}

// isRefused says that the server has refused a user's secret.
func (c *content) isRefused(u user) bool { return isDenied(c.verdicts[u.proof].err) }

// period is the shortest of the users'; 0: nobody wants a refresh.
func (c *content) period() (shortest time.Duration) {
	for _, u := range c.users {
		if u.period > 0 && (shortest == 0 || u.period < shortest) {
			shortest = u.period
		}
	}
	return shortest
}

// refresher is the user with whose secret the server is asked: the one that has come last, of those
// whose secret the server has not refused.
func (c *content) refresher() (best user) {
	for _, u := range c.users {
		if best.since == 0 || c.isRefused(best) && !c.isRefused(u) ||
			c.isRefused(best) == c.isRefused(u) && u.since > best.since {
			best = u
		}
	}
	return best
}

// base is the commit that the next fetch may build upon; empty: none.
func (c *content) base() string {
	if errors.Is(c.lastErr, gittree.ErrBase) {
		return ""
	}
	return c.commit
}

// isToClean says whether replaced trees are to be removed.
func (c *content) isToClean(now time.Time) bool {
	return c.isLoaded && !c.cleanAt.IsZero() && now.After(c.cleanAt)
}

// isStale: see Contents.Stale.
func (c *content) isStale() bool {
	return c.commit != "" && len(c.users) > 0 && c.failures >= staleFailures
}

// staleFailures is how many refreshes fail in a row before anybody is told.
const staleFailures = 2

func (c *content) stopTimer() {
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
}
