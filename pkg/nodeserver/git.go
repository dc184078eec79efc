package nodeserver

import (
	"context"
	"fmt"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/gitsource"
	"github.com/csi-hostpath/csi-hostpath/pkg/health"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// openGit opens the content of a git repository, which all pods of the node share. So it is always
// read-only. A runtime may drop the flags of the driver's mount, and only the pod's own readOnly
// makes the runtime keep it. Errors: those of gitsource.
func (s *Server) openGit(ctx context.Context, r publishRequest) (mountSource, error) {
	if !r.readOnly {
		return mountSource{}, fmt.Errorf(
			"%w: content of git is read-only, and the pod's volume is not: %s",
			volume.ErrForbidden, volume.ReadOnlyRemedy(r.attributes.Inline))
	}
	if err := r.attributes.Git.CheckSize(); err != nil {
		return mountSource{}, err
	}
	was, _ := s.Publications.at(r.target)
	src := mountSource{volume: r.handle}
	if was == r.handle {
		// kubelet makes an event of the pod from the error, and calls again. The pod has its volume.
		src.report = func() error { return s.Git.Report(r.target) }
	}
	f, err := s.Git.Open(ctx, gitsource.Request{
		Use: gitsource.Use{
			Source: r.attributes.Git, Namespace: r.attributes.Pod.Namespace,
		},
		Target:    r.target,
		Pool:      r.attributes.Pool,
		Secret:    r.secret,
		Published: was == r.handle,
	})
	if err != nil {
		return mountSource{}, err
	}
	r.access.Group = volume.Group{}
	r.access.Mount = r.access.Mount.AsReadOnly()
	src.file, src.access = f, r.access
	return src, nil
}

// gitContent finds a volume with content of git by its ID.
func (s *Server) gitContent(id volume.ID) (v pool.Volume, ok bool) {
	p, err := s.Pools.ByID(id.Pool())
	if err != nil {
		return v, false
	}
	v, err = p.Get(id)
	return v, err == nil && v.IsGitContent()
}

// gitConditions say that the content at the targets of a volume could not be refreshed.
func (s *Server) gitConditions(handle string, at placesOf) (conditions []health.Condition) {
	for _, t := range s.targetsOf(handle, at) {
		since, why, stale := s.Git.Stale(t)
		if !stale {
			continue
		}
		c := health.OfVolume(volume.FaultGitStale)
		c.Message += volume.Clip(
			fmt.Sprintf(" Since %s: %s", since.UTC().Format(time.RFC3339), why), maxWhy)
		conditions = append(conditions, c)
	}
	return conditions
}

// maxWhy leaves room for the rest of a condition's message, in bytes.
const maxWhy = 512
