package pool

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/copying"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/layout"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

// gate is a limiter that stops a copy after its first bytes, until the test opens the gate.
type gate struct {
	reached chan struct{} // closed when a copy has reached the gate
	opened  chan struct{}
	once    sync.Once
}

func newGate() *gate { return &gate{reached: make(chan struct{}), opened: make(chan struct{})} }

func (g *gate) WaitN(ctx context.Context, _ int) error {
	g.once.Do(func() { close(g.reached) })
	select {
	case <-g.opened:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// slowPool returns a pool on a filesystem that copies block by block, with a volume. The copies
// stop at the gate.
func slowPool(t *testing.T) (*Pool, volume.Volume, *gate) {
	t.Helper()
	p := poolOn(t, disks.Ext4)
	v := create(t, p, "v", 64*mib)
	writeTree(t, dataPath(p, v.ID), map[string]string{"file": strings.Repeat("content ", 512<<10)})
	g := newGate()
	p.copier.Throttle.Limiter = g
	return p, v, g
}

// oneCopyAtATime lets each copy wait until the one before it has ended.
func oneCopyAtATime(p *Pool) {
	limiter := p.copier.Throttle.Limiter
	p.copier.Throttle = copying.NewThrottle(1, 0)
	p.copier.Throttle.Limiter = limiter
}

// short returns a context that ends after a copy has reached the gate.
func short(t *testing.T, g *gate) context.Context {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-g.reached
		cancel()
	}()
	return ctx
}

func wantSameContent(t *testing.T, a, b string) {
	t.Helper()
	one, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	other, err := os.ReadFile(b)
	if err != nil || !bytes.Equal(one, other) || len(one) == 0 {
		t.Errorf("%s has %d bytes, %s %d (%v), want the same content", a, len(one), b, len(other), err)
	}
}

func TestCopyOutlivesItsCallAndTheRetryJoinsIt(t *testing.T) {
	p, v, g := slowPool(t)
	s := snapshotRequest(t, "s", v.ID)
	if _, err := p.CreateSnapshot(short(t, g), s); !errors.Is(err, volume.ErrBusy) ||
		!strings.Contains(err.Error(), "goes on (") {
		t.Fatalf("%v, want ErrBusy and the progress", err)
	}
	if got := status(t, p); got.Copies != 1 {
		t.Errorf("%d copies are under way, want 1", got.Copies)
	}
	tmp := entries(t, filepath.Join(p.opts.Path, layout.TmpDir))
	joined := make(chan error)
	go func() {
		_, err := p.CreateSnapshot(t.Context(), s)
		joined <- err
	}()
	close(g.opened)
	if err := <-joined; err != nil {
		t.Fatal(err)
	}
	if len(tmp) != 1 {
		t.Errorf("tmp/ had %q during the copy, want one entry", tmp)
	}
	got, err := p.CreateSnapshot(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	wantSameContent(t, filepath.Join(dataPath(p, v.ID), "file"),
		filepath.Join(snapshotPath(p, got.ID), "file"))
	if got := status(t, p); got.Copies != 0 {
		t.Errorf("%d copies are under way, want none", got.Copies)
	}
}

func TestCallIsAnsweredBeforeItsDeadline(t *testing.T) {
	p, v, _ := slowPool(t)
	// A tenth of this time is left for the answer, which may take a while on a busy machine.
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err := p.CreateSnapshot(ctx, snapshotRequest(t, "s", v.ID))
	if !errors.Is(err, volume.ErrBusy) || ctx.Err() != nil {
		t.Errorf("%v, and the context has ended: %v; want ErrBusy before that", err, ctx.Err())
	}
}

func TestWhatIsBeingCopiedIsNotDeleted(t *testing.T) {
	p, v, g := slowPool(t)
	if _, err := p.CreateSnapshot(
		short(t, g),
		snapshotRequest(t, "s", v.ID),
	); !errors.Is(
		err, volume.ErrBusy,
	) {
		t.Fatal(err)
	}
	id := volume.NewSnapshotID(p.ID(), snapshotRequest(t, "s", v.ID).Name)
	if err := p.DeleteSnapshot(t.Context(), id); !errors.Is(err, volume.ErrBusy) {
		t.Errorf("delete of the unfinished snapshot: %v, want ErrBusy", err)
	}
	if err := p.Delete(t.Context(), v.ID); !errors.Is(err, volume.ErrBusy) {
		t.Errorf("delete of its source: %v, want ErrBusy", err)
	}
	if _, err := expand(t, p, v.ID, 65*mib, 0); err != nil {
		t.Errorf("its source cannot be expanded: %v", err)
	}
	other := create(t, p, "other", mib)
	if _, err := p.CreateSnapshot(
		t.Context(),
		snapshotRequest(t, "s", other.ID),
	); !errors.Is(
		err, volume.ErrBusy,
	) {
		t.Errorf("snapshot of another volume under the same name: %v, want ErrBusy", err)
	}
	remove(t, p, other.ID)
	close(g.opened)
	s := snapshot(t, p, "s", v.ID)
	remove(t, p, v.ID)
	removeSnapshot(t, p, s.ID)
}

func TestSnapshotThatIsBeingRestoredIsNotDeleted(t *testing.T) {
	p, v, g := slowPool(t)
	p.copier.Throttle.Limiter = nil
	s := snapshot(t, p, "s", v.ID)
	p.copier.Throttle.Limiter = g
	req := from(t, "copy", volume.FromSnapshot(s.ID), 64*mib)
	if _, err := p.CreateFrom(short(t, g), req, only{p}); !errors.Is(err, volume.ErrBusy) {
		t.Fatal(err)
	}
	if err := p.DeleteSnapshot(t.Context(), s.ID); !errors.Is(err, volume.ErrBusy) {
		t.Errorf("delete of the source: %v, want ErrBusy", err)
	}
	if err := p.Delete(t.Context(), volume.NewID(p.ID(), req.Name)); !errors.Is(err, volume.ErrBusy) {
		t.Errorf("delete of the unfinished volume: %v, want ErrBusy", err)
	}
	remove(t, p, v.ID) // no copy uses the source any more
	close(g.opened)
	restored := restore(t, p, req, only{p})
	removeSnapshot(t, p, s.ID)
	if got := listTree(t, dataPath(p, restored.ID)); len(got["file"]) != 4*mib {
		t.Errorf("the restored file has %d bytes", len(got["file"]))
	}
}

func TestClosingThePoolEndsCopiesAndLeavesNothing(t *testing.T) {
	p, v, g := slowPool(t)
	ended := make(chan error)
	go func() {
		_, err := p.CreateSnapshot(t.Context(), snapshotRequest(t, "s", v.ID))
		ended <- err
	}()
	<-g.reached
	closePool(t, p)
	if err := <-ended; !errors.Is(err, volume.ErrUnavailable) {
		t.Errorf("%v, want ErrUnavailable", err)
	}
	p = openPool(t, p.opts)
	waitPurged(t, p)
	wantEntries(t, p, layout.TmpDir)
	wantEntries(t, p, layout.SnapshotsDir)
	wantLedger(t, p, 64*mib, 0)
	s := snapshot(t, p, "s", v.ID)
	wantSameContent(t, filepath.Join(dataPath(p, v.ID), "file"),
		filepath.Join(snapshotPath(p, s.ID), "file"))
}

// failing is a limiter that lets every copy fail after the gate.
type failing struct {
	*gate

	err error
}

func (f failing) WaitN(ctx context.Context, n int) error {
	return errors.Join(f.gate.WaitN(ctx, n), f.err)
}

func TestFailureThatNobodyWaitedForIsToldToTheRetry(t *testing.T) {
	p, v, g := slowPool(t)
	broken := errors.New("the disk is broken")
	p.copier.Throttle.Limiter = failing{g, broken}
	req := snapshotRequest(t, "s", v.ID)
	if _, err := p.CreateSnapshot(short(t, g), req); !errors.Is(err, volume.ErrBusy) {
		t.Fatal(err)
	}
	close(g.opened)
	eventually(t, "the copy has failed", func() bool { return status(t, p).Copies == 0 })
	if _, err := p.CreateSnapshot(t.Context(), req); !errors.Is(err, broken) {
		t.Errorf("the retry: %v, want the error of the copy", err)
	}
	p.copier.Throttle.Limiter = nil
	snapshot(t, p, "s", v.ID) // the error is returned once, and then the copy begins again
}

func TestCopiesWaitForTheirTurn(t *testing.T) {
	p, v, g := slowPool(t)
	oneCopyAtATime(p)
	if _, err := p.CreateSnapshot(
		short(t, g),
		snapshotRequest(t, "first", v.ID),
	); !errors.Is(
		err, volume.ErrBusy,
	) {
		t.Fatal(err)
	}
	second := make(chan error)
	go func() {
		_, err := p.CreateSnapshot(t.Context(), snapshotRequest(t, "second", v.ID))
		second <- err
	}()
	eventually(t, "the second copy has begun to wait", func() bool { return status(t, p).Copies == 2 })
	for _, name := range entries(t, filepath.Join(p.opts.Path, layout.TmpDir)) {
		if strings.HasPrefix(name, "s-second") {
			t.Errorf("tmp/ has %s while the first copy is made", name)
		}
	}
	close(g.opened)
	if err := <-second; err != nil {
		t.Error(err)
	}
}

func TestRateHoldsCopies(t *testing.T) {
	opts := poolOn(t, disks.Ext4).opts
	opts.Path += "-throttled"
	opts.CopyBytesPerSecond = 4 * mib
	p := openPool(t, opts)
	v := create(t, p, "v", 64*mib)
	writeTree(t, dataPath(p, v.ID), map[string]string{"file": strings.Repeat("content ", 512<<10)})
	begin := time.Now()
	snapshot(t, p, "s", v.ID) // 4 MiB, and the first of them is the limiter's burst
	if took := time.Since(begin); took < 700*time.Millisecond {
		t.Errorf("4 MiB at 4 MiB/s took %s", took)
	}
}

// The driver's context ends before its calls. Calls that wait for a copy must not delay the
// driver's end.
func TestCopiesEndWithTheContextOfTheirPool(t *testing.T) {
	first, v, _ := slowPool(t)
	closePool(t, first)
	ctx, stop := context.WithCancel(t.Context())
	p, err := Open(ctx, first.opts)
	if err != nil {
		t.Fatal(err)
	}
	defer closePool(t, p)
	g := newGate()
	p.copier.Throttle.Limiter = g
	ended := make(chan error)
	go func() {
		_, err := p.CreateFrom(t.Context(), from(t, "clone", volume.FromVolume(v.ID), 64*mib), only{p})
		ended <- err
	}()
	<-g.reached
	stop()
	if err := <-ended; !errors.Is(err, volume.ErrUnavailable) {
		t.Errorf("%v, want ErrUnavailable", err)
	}
	if _, err := p.CreateSnapshot(
		t.Context(),
		snapshotRequest(t, "late", v.ID),
	); !errors.Is(
		err, volume.ErrUnavailable,
	) {
		t.Errorf("a copy that begins afterwards: %v, want ErrUnavailable", err)
	}
}

// A call that never ends delays copies and purges, but does not stop them.
func TestCopyAndPurgeEndWhileACallGoesOn(t *testing.T) {
	p := openPool(t, Options{Name: "p", Path: filepath.Join(disks.New(t, disks.Ext4, 0).Dir, "pool")})
	v := create(t, p, "v", mib)
	files := map[string]string{}
	for i := range 1000 { // more than a purge removes before it asks whether calls are under way
		files[strconv.Itoa(i)] = ""
	}
	writeTree(t, dataPath(p, v.ID), files)
	p.calls.Enter()
	defer p.calls.Leave()
	s := snapshot(t, p, "s", v.ID)
	if err := p.DeleteSnapshot(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	waitPurged(t, p)
}
