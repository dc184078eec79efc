//go:build vm

package quotas

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sync/errgroup"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/vm/guest"
)

// A thousand volumes take half of a disk of 2 GiB, and each is full at its own size. They are
// published, as kubelet does: a pod writes through a mount of its own.
func TestThousandVolumesAreEachFullAtTheirOwnSize(t *testing.T) {
	const count = 1000
	for _, fstype := range []string{disks.XFS, disks.Ext4} {
		t.Run(fstype, func(t *testing.T) {
			w := newWorld(t, guest.Disk(t, fstype), "thousand", "")
			// What kubelet has limited stays kubelet's.
			guest.LimitProject(t, w.disk, kubeletID, 7*mib)
			defer guest.LimitProject(t, w.disk, kubeletID, 0)
			w.start()
			pods := make([]pod, count)
			for i := range pods {
				pods[i] = w.newPod(fmt.Sprintf("pod-%d", i))
			}
			neighbour := w.newPod("neighbour")
			w.must(neighbour.begin(t.Context(), w))
			w.forAll("created and published", pods, (*pod).begin)
			w.forAll("filled", pods, (*pod).fill)
			w.must(neighbour.fill(t.Context(), w))
			w.forAll("asked for their use", pods, (*pod).check)
			w.wantQuotas(count + 1)
			if all := guest.ProjectQuotas(t, w.disk, 1); len(all) != count+2 {
				t.Errorf("%d projects have quotas, want those of the volumes and kubelet's", len(all))
			}
			w.forAll("unpublished and deleted", pods, (*pod).end)
			w.must(neighbour.end(t.Context(), w))
			w.wantNothingLeft()
			if q := guest.ProjectQuota(t, w.disk, kubeletID); q != (guest.Quota{LimitBytes: 7 * mib}) {
				t.Errorf("kubelet's project has %+v", q)
			}
		})
	}
}

// forAll takes one step with all pods, some at a time.
func (w *world) forAll(done string, pods []pod, step func(*pod, context.Context, *world) error) {
	w.t.Helper()
	begin := time.Now()
	group, ctx := errgroup.WithContext(w.t.Context())
	group.SetLimit(atOnce)
	for i := range pods {
		group.Go(func() error { return step(&pods[i], ctx, w) })
	}
	w.must(group.Wait())
	w.t.Logf("%d volumes were %s in %s", len(pods), done, time.Since(begin).Round(time.Millisecond))
}

// pod has a volume of 1 MiB.
type pod struct {
	name, id, target string
	volumeType       volume.Type
}

// newPod gives every other pod a file.
func (w *world) newPod(name string) pod {
	p := pod{name: name, target: w.target(name), volumeType: volume.DirectoryOrCreate}
	if name[len(name)-1]%2 == 0 {
		p.volumeType = volume.FileOrCreate
	}
	return p
}

func (p *pod) begin(ctx context.Context, w *world) (err error) {
	if p.id, err = w.create(ctx, p.name, p.volumeType, mib); err != nil {
		return err
	}
	return w.publish(ctx, p.id, p.target)
}

func (p *pod) file() string {
	if p.volumeType == volume.FileOrCreate {
		return p.target
	}
	return filepath.Join(p.target, "file")
}

// fill wants the volume to be full at its size: not before, not after.
func (p *pod) fill(context.Context, *world) error {
	written, err := fill(p.file())
	if err == nil && (written > mib || written < mib-slack) {
		err = fmt.Errorf("%s was full after %d bytes, want %d or a little less", p.name, written, mib)
	}
	return err
}

// check compares what kubelet is told.
func (p *pod) check(ctx context.Context, w *world) error {
	u, err := w.stats(ctx, p.id, p.target, csi.VolumeUsage_BYTES)
	if err == nil &&
		(u.GetTotal() != mib || u.GetUsed() > mib || u.GetUsed() < mib-slack || u.GetAvailable() != mib-u.GetUsed()) {
		err = fmt.Errorf("the stats of the full %s are %v", p.name, u)
	}
	return err
}

func (p *pod) end(ctx context.Context, w *world) error {
	if err := w.unpublish(ctx, p.id, p.target); err != nil {
		return err
	}
	// nothing is left for kubelet to stumble over
	if err := os.Remove(filepath.Dir(p.target)); err != nil {
		return err
	}
	return w.delete(ctx, p.id)
}

// wantQuotas asks the filesystem: every volume has an ID, none of which is anybody else's, limited
// to its size.
func (w *world) wantQuotas(volumes int) {
	w.t.Helper()
	quotas := guest.ProjectQuotas(w.t, w.disk, firstID)
	if len(quotas) != volumes {
		w.t.Errorf("%d projects have quotas, want %d", len(quotas), volumes)
	}
	for id, q := range quotas {
		if q.LimitBytes != mib || q.UsedBytes > mib || q.UsedBytes < mib-slack {
			w.t.Errorf("project %d has %+v", id, q)
		}
	}
}
