package crash

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// worker takes one volume after the other through its life. It repeats a call that was not
// acknowledged, as kubelet and the provisioner do, and never one that was.
type worker struct {
	*node
	name, target, id string
	phase            int
	lives            int
}

// phases is the number of phases in worker.step.
const phases = 8

// step makes the next call.
func (k *worker) step(ctx context.Context) (err error) {
	switch k.phase {
	case 0:
		k.id, err = k.create(ctx, k.name, "DirectoryOrCreate")
	case 1, 4:
		err = k.publish(ctx, k.id, k.target)
	case 2:
		err = os.WriteFile(file(k.target, "DirectoryOrCreate"), []byte(content), 0o600)
	case 5:
		wantContent(k.t, file(k.target, "DirectoryOrCreate"))
	case 3, 6:
		err = k.unpublish(ctx, k.id, k.target)
	case 7:
		if err = k.delete(ctx, k.id); err == nil {
			k.lives++
		}
	}
	if err == nil {
		k.phase = (k.phase + 1) % phases
	}
	return err
}

// work takes steps until the driver dies.
func (k *worker) work(ctx context.Context) {
	for {
		err := k.step(ctx)
		// The test's own end of the connection returns Canceled after it was closed.
		if code := status.Code(err); code == codes.Unavailable || code == codes.Canceled {
			return
		}
		if err != nil {
			k.t.Errorf("%s in phase %d: %v", k.name, k.phase, err)
			return
		}
	}
}

// TestSIGKILLUnderLoadLosesNothing kills the driver at any moment, not only at failpoints.
func TestSIGKILLUnderLoadLosesNothing(t *testing.T) {
	const deaths, workers = 10, 16
	disk := disks.New(t, disks.Ext4, 2<<30)
	binary := fixture.Build(t)
	n := newNode(t, binary, filepath.Join(disk.Dir, "load"))
	n.Start()
	kept, err := n.create(t.Context(), "kept", "DirectoryOrCreate")
	n.Must(err)
	keptAt := n.target("kept")
	n.Must(n.publish(t.Context(), kept, keptAt))
	write(t, file(keptAt, "DirectoryOrCreate"))

	all := make([]worker, workers)
	for i := range all {
		name := fmt.Sprintf("load-%d", i)
		all[i] = worker{node: n, name: name, target: n.target(name)}
	}
	for death := range deaths {
		var wg sync.WaitGroup
		for i := range all {
			wg.Go(func() { all[i].work(t.Context()) })
		}
		// no poll: the test kills the driver at arbitrary moments
		time.Sleep(time.Duration(30+20*death) * time.Millisecond)
		// The workers use the node's process, so the test replaces the process only after all workers
		// have noticed its end.
		fixture.Must(t, n.Process.Kill())
		wg.Wait()
		n.Process = nil
		n.Start()
		wantContent(t, file(keptAt, "DirectoryOrCreate"))
	}
	lives := 0
	for i := range all {
		// At least one more life: also in phase 0 a volume may exist whose creation was not acknowledged.
		for end := all[i].lives + 1; all[i].lives < end; {
			n.Must(all[i].step(t.Context()))
		}
		lives += all[i].lives
	}
	t.Logf("%d volumes lived and died", lives)
	n.wantClean(1, kept)
}
