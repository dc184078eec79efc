package main

import (
	"context"
	"errors"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"

	"github.com/csi-hostpath/csi-hostpath/pkg/gitwire"
)

// fetch asks the server for the commit of a ref, receives what the cache lacks, and returns the
// commit's tree. The server is asked in any case, with the request's own credentials: what an
// earlier request has left in the cache is for nobody whom the server refuses.
func fetch(ctx context.Context, r gitwire.Request, o options) (_ *tree, err error) {
	// What go-git does not expect of a server is the server's fault. The pack is read in this
	// goroutine; a panic of another one ends the process, and start says so.
	defer func() {
		if cause := recover(); cause != nil {
			err = fault(gitwire.Malformed, "the repository is malformed: %.200v", cause)
		}
	}()
	if err := checkRef(r.Ref); err != nil {
		return nil, err
	}
	r.Limits.PackBytes = min(r.Limits.PackBytes, o.packBytes())
	s, err := openStore(ctx, o.cache, r)
	if err != nil {
		return nil, err
	}
	t, err := fetchInto(ctx, s, r, o)
	if err != nil && s.hadPacks && classify(ctx, err).Fault == gitwire.Malformed {
		// An older fetch may be what is damaged: nothing makes it durable.
		if err := s.clear(); err != nil {
			return nil, err
		}
		t, err = fetchInto(ctx, s, r, o)
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return t, nil
}

func fetchInto(ctx context.Context, s *store, r gitwire.Request, o options) (*tree, error) {
	session, err := newSession(ctx, r, o)
	if err != nil {
		return nil, err
	}
	defer session.Close()
	refs, err := session.AdvertisedReferencesContext(ctx)
	if err != nil {
		return nil, err
	}
	hash, err := resolve(refs, r.Ref)
	if err != nil {
		return nil, err
	}
	if hash.String() == r.Base {
		return s.unchanged(r), nil
	}
	if !s.has(hash) {
		if err := s.receive(ctx, session, refs, hash, r); err != nil {
			return nil, err
		}
	}
	commit, err := s.peel(hash)
	if err != nil {
		return nil, unreadable(ctx, err)
	}
	if commit.String() == r.Base {
		return s.unchanged(r), nil
	}
	t, err := readTree(ctx, s, commit, r)
	return t, unreadable(ctx, err)
}

// unreadable is the error of objects that are not what they should be. go-git has many.
func unreadable(ctx context.Context, err error) error {
	if _, known := errors.AsType[*gitwire.Error](err); err == nil || known || ctx.Err() != nil {
		return err
	}
	return fault(gitwire.Malformed, "%v", err)
}

func (s *store) unchanged(r gitwire.Request) *tree {
	return &tree{store: s, answer: gitwire.Answer{
		Version: gitwire.Version, Commit: r.Base, Base: r.Base, Unchanged: true,
	}}
}

// checkRef refuses what is no name of a ref, before a server hears of it.
func checkRef(ref string) error {
	if ref == "" || ref == "HEAD" || plumbing.IsHash(ref) {
		return nil
	}
	name := plumbing.ReferenceName(ref)
	if !strings.HasPrefix(ref, "refs/") {
		name = plumbing.NewBranchReferenceName(ref)
	}
	if strings.HasPrefix(ref, "-") || name.Validate() != nil {
		return fault(gitwire.NotFound, "%.100q is no name of a branch or a tag", ref)
	}
	return nil
}

// resolve finds what a server has for a ref. For an annotated tag that is the commit that the tag
// names, if the server says so.
func resolve(refs *packp.AdvRefs, ref string) (plumbing.Hash, error) {
	if plumbing.IsHash(ref) {
		// A server may refuse what none of its refs names; then the fetch fails.
		return plumbing.NewHash(ref), nil
	}
	if ref == "" || ref == "HEAD" {
		if refs.Head == nil {
			return plumbing.ZeroHash, fault(gitwire.NotFound, "the repository has no HEAD: name a ref")
		}
		return *refs.Head, nil
	}
	var found []plumbing.Hash
	for _, name := range []string{ref, "refs/heads/" + ref, "refs/tags/" + ref} {
		hash, ok := refs.References[name]
		if !ok || !isFull(name) {
			continue
		}
		if peeled, ok := refs.Peeled[name]; ok {
			hash = peeled
		}
		found = append(found, hash)
	}
	switch {
	case len(found) == 0:
		return plumbing.ZeroHash, fault(gitwire.NotFound, "the repository has no branch or tag %q", ref)
	case len(found) > 1 && found[0] != found[1]:
		return plumbing.ZeroHash, fault(gitwire.Refused,
			"%q is a branch and a tag: write refs/heads/%s or refs/tags/%s", ref, ref, ref)
	default:
		return found[0], nil
	}
}

func isFull(name string) bool { return plumbing.ReferenceName(name).Validate() == nil }
