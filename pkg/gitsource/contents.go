// Package gitsource keeps the content of git repositories on a node: one volume of a pool for all
// pods that ask for the same, fetched by another process and refreshed while pods run.
package gitsource

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/gittree"
	"github.com/csi-hostpath/csi-hostpath/pkg/gitwire"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	// patience is how long a publish waits for a fetch. The fetch goes on, and the next publish joins
	// it. kubelet waits longer for a call, but until the call ends nobody can unpublish.
	patience = 30 * time.Second
	// unusedTime is how long content that no pod shows is kept: a pod that is replaced by another one
	// needs it again.
	unusedTime = 10 * time.Minute
)

// Pools finds pools; see nodeserver.Pools.
type Pools interface {
	ByID(id volume.PoolID) (*pool.Pool, error)
	ByName(name string) (*pool.Pool, error)
	Open() []*pool.Pool
	Use() (end func())
}

// Fetcher asks the process that speaks git. Errors: *gitwire.Error says why there is no tree; with
// any other error the process was not reached, or is at fault.
type Fetcher func(ctx context.Context, r gitwire.Request) (*gitwire.Fetched, error)

// At is the Fetcher that listens on a unix socket.
func At(socket string) Fetcher {
	return func(ctx context.Context, r gitwire.Request) (*gitwire.Fetched, error) {
		return gitwire.Fetch(ctx, socket, r)
	}
}

// Options are what Contents work with.
type Options struct {
	Rules *Rules
	Pools Pools
	Fetch Fetcher
}

// Contents is what a node has of git repositories. A nil Contents has none and allows none. Nothing
// runs before the first publish.
type Contents struct {
	opts     Options
	proofKey [sha256.Size]byte
	turns    *turns

	// These are other than the constants in tests only.
	patience, unused, grace time.Duration
	backoff                 backoff

	fetches sync.WaitGroup
	end     context.CancelFunc
	ctx     context.Context //nolint:containedctx // of what outlives calls: Close ends it

	mu       sync.Mutex
	closed   bool
	contents map[volume.ID]*content
	byTarget map[mount.Target]*content
	results  map[string]int64
	sequence int64
}

// New makes Contents. What they log in the background has the logger of the context. The caller
// closes them; the end of the context does not, because Close says first that the driver stops.
func New(ctx context.Context, opts Options) *Contents {
	ctx, end := context.WithCancel(context.WithoutCancel(ctx))
	s := &Contents{
		opts: opts, turns: newTurns(), ctx: ctx, end: end,
		patience: patience, unused: unusedTime, grace: gittree.DefaultGrace, backoff: defaultBackoff(),
		contents: make(map[volume.ID]*content), byTarget: make(map[mount.Target]*content),
		results: make(map[string]int64),
	}
	if opts.Rules.isEmpty() {
		s.unused = 0 // no pod can need it again
	}
	_, _ = rand.Read(s.proofKey[:]) // it never fails (crypto/rand)
	return s
}

// Close ends the fetches that are under way, and waits for them. What is published stays.
func (s *Contents) Close() {
	if s == nil {
		return
	}
	s.mu.Lock()
	s.closed = true
	for _, c := range s.contents {
		c.stopTimer()
	}
	s.mu.Unlock()
	s.end()
	s.fetches.Wait()
}

// Check reports whether the rules allow a use. Errors: ErrForbidden.
func (s *Contents) Check(use Use) error {
	if s == nil {
		return new(Rules).Check(use)
	}
	return s.opts.Rules.Check(use)
}

// Request is what a pod wants to see at a target.
type Request struct {
	Use

	Target mount.Target
	// Pool is the name of the pool that is to have the content; empty is the default one.
	Pool string
	// Secret is that of the publish.
	Secret map[string]string
	// Published: the target shows the content already. Then no server is asked.
	Published bool
}

// Open returns what the target is to show, an O_PATH descriptor that the caller closes. The content
// is refreshed from then on, until Release. If the node does not have the content yet, Open waits
// for it, but not for long. After an error the target uses nothing.
// Errors: ErrForbidden, ErrInvalid, ErrBusy while the content is still being fetched; those of the
// fetch; those of the pool.
func (s *Contents) Open(ctx context.Context, r Request) (*os.File, error) {
	f, err := s.open(ctx, r)
	if err != nil {
		s.Release(r.Target)
	}
	return f, err
}

func (s *Contents) open(ctx context.Context, r Request) (*os.File, error) {
	if s == nil {
		return nil, new(Rules).Check(r.Use)
	}
	rule, err := s.opts.Rules.find(r.Use)
	if err != nil {
		return nil, err
	}
	credentials, err := parseCredentials(r.Source.URL, r.Secret)
	if err != nil {
		return nil, err
	}
	user := user{
		credentials: credentials, proof: s.proofOf(credentials), rule: rule, period: r.Source.Period,
	}
	name := nameOf(r.Use, user.proof)
	p, err := s.poolOf(name, r.Pool)
	if err != nil {
		return nil, err
	}
	c, err := s.join(volume.NewID(p.ID(), name), name, r, user)
	if err != nil {
		return nil, err
	}
	if err := s.load(ctx, c, p, r.Use, user.proof); err != nil {
		return nil, err
	}
	if err := s.await(ctx, c, user, r.Published); err != nil {
		return nil, err
	}
	return dirOf(p, c.id)
}

// poolOf is the pool that a content is to be in: if nobody names one it is the default pool, unless
// the content was made when that was another one. Pods that show it are published again and again.
func (s *Contents) poolOf(name volume.Name, wanted string) (*pool.Pool, error) {
	p, err := s.opts.Pools.ByName(wanted)
	if wanted != "" || err == nil && hasContent(p, name) {
		return p, err
	}
	for _, other := range s.opts.Pools.Open() {
		if hasContent(other, name) {
			return other, nil
		}
	}
	return p, err
}

func hasContent(p *pool.Pool, name volume.Name) bool {
	v, err := p.Get(volume.NewID(p.ID(), name))
	return err == nil && v.IsGitContent()
}

// dirOf opens what pods see of a content.
func dirOf(p *pool.Pool, id volume.ID) (*os.File, error) {
	v, err := p.Get(id)
	if err != nil {
		return nil, err
	}
	data, err := v.Data()
	if err != nil {
		return nil, err
	}
	defer data.Close()
	return gittree.Dir(data)
}

// nameOf is equal for the same content. What a secret opens is another content in each namespace.
// The period is not part of it: pods with different ones share the content.
func nameOf(use Use, p proof) volume.Name {
	g := use.Source
	text := fmt.Appendf(nil, "%q %q %d %q %q %d",
		g.URL.String(), g.Ref, g.Depth, g.SubPath, g.SignalFile, g.SizeBytes)
	if p != (proof{}) {
		text = fmt.Appendf(text, " secret %q", use.Namespace)
	}
	digest := sha256.Sum256(text)
	name, _ := volume.ParseName("git-" + hex.EncodeToString(digest[:])[:nameDigits]) // it is one
	return name
}

// nameDigits are as many as in other hashed names of a pool.
const nameDigits = 40

// join enters a user of a content. Errors: ErrBusy while the content is being deleted.
func (s *Contents) join(
	id volume.ID, name volume.Name, r Request, u user,
) (*content, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("%w: the driver is stopping", volume.ErrUnavailable)
	}
	if other := s.byTarget[r.Target]; other != nil && other.id != id {
		s.leaveLocked(r.Target) // a failed publish with other attributes, or in another pool
	}
	c := s.contents[id]
	if c == nil {
		c = newContent(id)
		s.contents[id] = c
	}
	if c.isDeleting {
		return nil, fmt.Errorf("%w: content %s is being deleted, because no pod has shown it for a while",
			volume.ErrBusy, id)
	}
	if c.source.IsNone() { // users differ in the period only, and others read it without the lock
		c.name, c.source = name, r.Source
	}
	before, known := c.users[r.Target]
	u.since, u.reported = before.since, before.reported
	if !known || before.proof != u.proof {
		s.sequence++
		u.since = s.sequence
	}
	c.users[r.Target] = u
	s.byTarget[r.Target] = c
	c.forgetVerdicts(time.Now())
	s.scheduleLocked(c)
	return c, nil
}

// load makes the content's volume, or finds it as an earlier process has left it. Errors: those of
// the pool and of gittree.
func (s *Contents) load(
	ctx context.Context, c *content, p *pool.Pool, use Use, proof proof,
) error {
	if v, err := p.Get(c.id); err == nil && s.isLoaded(c) {
		return checkIsContent(v.Volume, use)
	}
	c.disk.Lock()
	defer c.disk.Unlock()
	v, err := p.Get(c.id)
	switch {
	case err == nil && s.isLoaded(c):
		return checkIsContent(v.Volume, use)
	case errors.Is(err, volume.ErrNotFound):
		if err = s.create(ctx, c, p, use, proof); err == nil {
			v, err = p.Get(c.id)
		}
	}
	if err == nil {
		err = checkIsContent(v.Volume, use)
	}
	if err != nil {
		return err
	}
	tree, err := s.openTree(v, use.Source)
	if err != nil {
		return err
	}
	defer func() { _ = tree.Close() }()
	s.note(c, tree.Commit())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.scheduleLocked(c)
	return nil
}

func (s *Contents) isLoaded(c *content) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return c.isLoaded
}

// create makes the volume. The pool purges it at once when it is deleted, because a server has the
// content.
func (s *Contents) create(
	ctx context.Context, c *content, p *pool.Pool, use Use, u proof,
) error {
	owner := volume.Owner{Git: use.Source.URL.String()}
	if u != (proof{}) {
		owner.Namespace = use.Namespace
	}
	s.mu.Lock()
	c.isLoaded, c.commit = false, "" // somebody may have deleted the volume
	s.mu.Unlock()
	_, err := p.Create(ctx, volume.CreateRequest{
		Name:    c.name,
		Size:    volume.SizeRange{Required: use.Source.SizeBytes},
		Spec:    volume.Spec{Type: volume.DirectoryOrCreate, Mode: 0o755},
		Owner:   owner,
		Mutable: volume.Mutable{TrashRetention: "0s"},
	})
	return err
}

// checkIsContent refuses a volume that somebody else has made under the content's name. Errors:
// ErrIncompatible.
func checkIsContent(v volume.Volume, use Use) error {
	if v.Owner.Git == use.Source.URL.String() {
		return nil
	}
	return fmt.Errorf("%w: volume %s has no content of %s", volume.ErrIncompatible, v.ID,
		use.Source.URL)
}

func (s *Contents) openTree(v pool.Volume, source volume.GitSource) (*gittree.Content, error) {
	data, err := v.Data()
	if err != nil {
		return nil, err
	}
	defer data.Close()
	return gittree.Open(data, source.URL.Repository(),
		gittree.Options{SignalFile: source.SignalFile, Grace: s.grace})
}

// await returns when the user may see the content: it is there, and the server has taken the user's
// secret, unless it was taken before or the server cannot be asked.
func (s *Contents) await(ctx context.Context, c *content, u user, published bool) error {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	for {
		f, err := s.nextFetch(c, u, published, began)
		if err != nil || f == nil {
			return err
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			if s.mayShow(c, u) {
				return nil // a server that takes so long is away
			}
			return fmt.Errorf("%w: ref %s of %s is still being fetched, for %v: the next call goes on waiting",
				volume.ErrBusy, c.source.Ref, c.source.URL, time.Since(f.began).Round(time.Second))
		}
	}
}

// mayShow says whether there is content, which no server has refused to the user.
func (s *Contents) mayShow(c *content, u user) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return c.commit != "" && !c.isRefused(u)
}

// nextFetch is the fetch that a user has to wait for since the call began. If there is none, the
// user may see the content, unless the error says why not.
func (s *Contents) nextFetch(
	c *content, u user, published bool, began time.Time,
) (f *fetch, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	verdict, asked := c.verdicts[u.proof]
	if asked && verdict.err != nil && verdict.at.Before(began) && s.backoff.isOver(verdict) {
		asked = false
	}
	// While the server is away, its content is here.
	isOpen := published || u.proof == (proof{}) || asked && !isDenied(verdict.err)
	switch {
	case isOpen && c.commit != "":
		return f, nil
	case asked && verdict.err != nil:
		return nil, describe(verdict.err, c.source)
	case c.running != nil:
		return c.running, nil
	}
	return s.startLocked(c, u)
}

// Release says that a target shows nothing any more.
func (s *Contents) Release(t mount.Target) {
	if s == nil || s.opts.Rules.isEmpty() { // each unpublish of any volume comes here
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaveLocked(t)
}

func (s *Contents) leaveLocked(t mount.Target) {
	c := s.byTarget[t]
	if c == nil {
		return
	}
	delete(s.byTarget, t)
	delete(c.users, t)
	c.forgetVerdicts(time.Now())
	if len(c.users) == 0 {
		c.unusedSince = time.Now()
	}
	s.scheduleLocked(c)
}

// Stale says since when the content at a target could not be refreshed, and why; ok is false while
// nothing is wrong. A single failure is nothing: networks fail.
func (s *Contents) Stale(t mount.Target) (since time.Time, why string, ok bool) {
	if s == nil {
		return since, "", false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.byTarget[t]
	if c == nil || !c.isStale() {
		return since, "", false
	}
	return c.failingSince, causeOf(c.lastErr), true
}

// StaleTargets are the targets whose content cannot be refreshed, in no order.
func (s *Contents) StaleTargets() (targets []mount.Target) {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.contents {
		if c.isStale() {
			targets = slices.AppendSeq(targets, maps.Keys(c.users))
		}
	}
	return targets
}

// Stats are what people are told.
type Stats struct {
	// Contents are those that pods show. Stale are those of them that cannot be refreshed.
	Contents, Stale int64
	// LeastRecent is the time of the last successful fetch of the content for which that is longest
	// ago, of those that are refreshed; zero: none was fetched in this process.
	LeastRecent time.Time
	// Fetches are the fetches so far, by their result.
	Fetches map[string]int64
}

// Stats counts.
func (s *Contents) Stats() Stats {
	stats := Stats{Fetches: make(map[string]int64)}
	for _, result := range Results() {
		stats.Fetches[result] = 0
	}
	if s == nil {
		return stats
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.contents {
		if len(c.users) > 0 {
			stats.Contents++
		}
		if c.isStale() {
			stats.Stale++
		}
		if c.period() > 0 && !c.lastFetched.IsZero() &&
			(stats.LeastRecent.IsZero() || c.lastFetched.Before(stats.LeastRecent)) {
			stats.LeastRecent = c.lastFetched
		}
	}
	maps.Copy(stats.Fetches, s.results)
	return stats
}

// causeOf is the text of an error for people who may not know more: what a server or its repository
// has wrong, and the disk's only if it is the volume that is too small.
func causeOf(err error) string {
	if wire, ok := errors.AsType[*gitwire.Error](err); ok {
		return cmp.Or(wire.Message, string(wire.Fault))
	}
	for _, theirs := range []error{volume.ErrNoSpace, volume.ErrTooMany, volume.ErrPrecondition} {
		if errors.Is(err, theirs) {
			return err.Error()
		}
	}
	return "the node could not store it: the log of the driver says why"
}
