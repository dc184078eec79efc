package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/copytree"
	"github.com/csi-hostpath/csi-hostpath/pkg/failpoint"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// CopyTogether copies several images into one directory each, as all of them are at one moment:
// the writers of all filesystems wait until all copies are made. It calls meanwhile once all of
// them wait, for other things that are copied at that moment; meanwhile is nil if there are none.
// Writers wait for at most maxQuiesced, also if a call to the kernel takes longer; then the copies
// are refused. Only a filesystem whose own freeze takes longer has its writers wait until that
// ends. The copies are durable, but for their names. The caller closes the files; there are none
// after an error, and the caller removes what remains in the directories. Errors: those of
// Image.MakeFrom; ErrInUse also when writers of raw block volumes, whom nothing can hold, could
// write between two copies.
func CopyTogether(
	ctx context.Context, from []Source, into []openat.Dir, opts copytree.Options,
	meanwhile func(context.Context) error,
) (copies []*os.File, err error) {
	g, err := quiesceAll(ctx, from, maxQuiesced)
	if err != nil {
		return nil, err
	}
	defer g.close()
	copies, err = g.copy(ctx, into, opts, meanwhile)
	if err = errors.Join(err, g.release()); err == nil {
		err = g.finish(copies)
	}
	if err != nil {
		for _, f := range copies {
			f.Close()
		}
		return nil, err
	}
	return copies, nil
}

// quiescedGroup has images that are ready to be copied, all of them until release.
type quiescedGroup struct {
	images []*quiesced
	most   time.Duration // that writers wait
	since  time.Time     // when the first writers began to wait; zero if none of them do
	watch  *time.Timer

	mu      sync.Mutex
	frozen  []*quiesced // those whose writers wait
	over    bool        // what is frozen from now on is thawed at once
	expired bool        // the watch has resumed them
	err     error       // of resume
}

// quiesceAll quiesces the images at the same time, so that no writer waits for the sum of all.
// Nobody is frozen before all are flushed, because a flush may take minutes. Writers wait for at
// most that time. After an error no writer waits.
func quiesceAll(ctx context.Context, from []Source, most time.Duration) (*quiescedGroup, error) {
	g := &quiescedGroup{images: make([]*quiesced, len(from)), most: most}
	err := g.each(func(i int) (err error) {
		g.images[i], err = openFlushed(ctx, from[i])
		return err
	})
	if err == nil {
		err = g.checkWriters()
	}
	if err == nil {
		g.startWatch()
		err = g.each(func(i int) error { return g.freeze(g.images[i]) })
	}
	if err != nil {
		err = errors.Join(err, g.release())
		g.close()
		return nil, err
	}
	return g, nil
}

// each does something for all images at the same time, and waits for all.
func (g *quiescedGroup) each(do func(i int) error) error {
	errs := make([]error, len(g.images))
	var all sync.WaitGroup
	for i := range g.images {
		all.Go(func() { errs[i] = do(i) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// openFlushed opens the image of a source, and flushes what pods have written to it.
func openFlushed(ctx context.Context, s Source) (*quiesced, error) {
	image, err := backend.OpenData(s.Dir, unix.O_PATH)
	if err != nil {
		return nil, fmt.Errorf("%w: data of %s: %w", volume.ErrCorrupt, s.Name, err)
	}
	q, err := flush(ctx, image, s)
	if err != nil {
		image.Close()
		return nil, fmt.Errorf("copy %s: %w", s.Name, err)
	}
	return q, nil
}

// startWatch bounds how long writers wait, before the first of them does: a freeze may hang in the
// kernel while the others are frozen.
func (g *quiescedGroup) startWatch() {
	if !slices.ContainsFunc(g.images, func(q *quiesced) bool { return q.root != nil }) {
		return
	}
	g.since = time.Now()
	g.watch = time.AfterFunc(g.most, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if !g.over {
			g.expired = true
			g.resume()
		}
	})
}

// freeze freezes an image. If the time is over by then, its writers go on at once.
func (g *quiescedGroup) freeze(q *quiesced) error {
	if err := q.freeze(); err != nil {
		return fmt.Errorf("copy %s: %w", q.from.Name, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.frozen = append(g.frozen, q)
	if g.over {
		g.resume()
	}
	return nil
}

// checkWriters refuses raw block volumes that pods write to, but for one: the copy of that one is
// the moment of all. Errors: ErrInUse.
func (g *quiescedGroup) checkWriters() error {
	if blocks := g.written(); len(blocks) > 1 {
		return writersOf(blocks)
	}
	return nil
}

func writersOf(blocks []*quiesced) error {
	names := make([]string, len(blocks))
	for i, q := range blocks {
		names[i] = q.from.Name.String()
	}
	return fmt.Errorf("%w: nothing can hold the writers of raw block volumes (%q), so a group "+
		"snapshot may have one that pods use, and none beside directories: take it while no pod has "+
		"them, or use volumes with a filesystem", volume.ErrInUse, names)
}

// written are the raw block volumes that pods may be writing to.
func (g *quiescedGroup) written() (blocks []*quiesced) {
	for _, q := range g.images {
		if q.device != nil && q.from.Spec.IsBlock() {
			blocks = append(blocks, q)
		}
	}
	return blocks
}

// copy makes the copies while the writers wait.
func (g *quiescedGroup) copy(
	ctx context.Context, into []openat.Dir, opts copytree.Options,
	meanwhile func(context.Context) error,
) (copies []*os.File, err error) {
	failpoint.Here("group.frozen")
	if !g.since.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, g.since.Add(g.most), g.tooLong())
		defer cancel()
		opts.Limiter = nil // the pods that write have waited long enough
	}
	if meanwhile != nil {
		if blocks := g.written(); len(blocks) > 0 {
			return nil, writersOf(blocks)
		}
		if err := meanwhile(ctx); err != nil {
			return nil, err
		}
	}
	for i, q := range g.images {
		f, err := q.copyInto(ctx, into[i], opts)
		if f != nil {
			copies = append(copies, f)
		}
		if err != nil {
			return copies, fmt.Errorf("copy %s: %w", q.from.Name, err)
		}
	}
	return copies, nil
}

func (g *quiescedGroup) tooLong() error {
	return fmt.Errorf("%w: the writers of %d volumes would wait for more than %s while their group "+
		"snapshot is taken: take it while no pod has them, or use a pool on XFS or btrfs",
		volume.ErrInUse, len(g.images), g.most)
}

// release lets the writers go on. Errors: ErrInUse when they have gone on already.
func (g *quiescedGroup) release() error {
	if g.watch != nil {
		g.watch.Stop()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.resume()
	for _, q := range g.images {
		if q != nil {
			q.close()
		}
	}
	if g.expired {
		return errors.Join(g.tooLong(), g.err)
	}
	return g.err
}

// resume thaws what is frozen by now. The caller has the lock.
func (g *quiescedGroup) resume() {
	g.over = true
	for _, q := range g.frozen {
		g.err = errors.Join(g.err, q.thaw())
	}
	g.frozen = nil
}

// finish checks the copies and makes them durable. The writers do not wait for that.
func (g *quiescedGroup) finish(copies []*os.File) error {
	var errs []error
	for i, f := range copies {
		errs = append(errs, checkCopied(f, g.images[i].from.Bytes), f.Sync())
	}
	return errors.Join(errs...)
}

// close closes the images, after release.
func (g *quiescedGroup) close() {
	for _, q := range g.images {
		if q != nil {
			q.image.Close()
		}
	}
}
