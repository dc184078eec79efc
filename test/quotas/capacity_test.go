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
			n := newNode(t, guest.Disk(t, fstype), "thousand", "")
			// What kubelet has limited stays kubelet's.
			guest.LimitProject(t, n.disk, kubeletID, 7*mib)
			defer guest.LimitProject(t, n.disk, kubeletID, 0)
			n.Start()
			pods := make([]pod, count)
			for i := range pods {
				pods[i] = n.newPod(fmt.Sprintf("pod-%d", i))
			}
			neighbour := n.newPod("neighbour")
			n.Must(neighbour.begin(t.Context(), n))
			n.forAll("created and published", pods, (*pod).begin)
			n.forAll("filled", pods, (*pod).fill)
			n.Must(neighbour.fill(t.Context(), n))
			n.forAll("asked for their use", pods, (*pod).check)
			n.wantQuotas(count + 1)
			if all := guest.ProjectQuotas(t, n.disk, 1); len(all) != count+2 {
				t.Errorf("%d projects have quotas, want those of the volumes and kubelet's", len(all))
			}
			n.forAll("unpublished and deleted", pods, (*pod).end)
			n.Must(neighbour.end(t.Context(), n))
			n.wantNothingLeft()
			if q := guest.ProjectQuota(t, n.disk, kubeletID); q != (guest.Quota{LimitBytes: 7 * mib}) {
				t.Errorf("kubelet's project has %+v", q)
			}
		})
	}
}

// forAll takes one step with all pods, some at a time.
func (n *node) forAll(done string, pods []pod, step func(*pod, context.Context, *node) error) {
	n.t.Helper()
	begin := time.Now()
	group, ctx := errgroup.WithContext(n.t.Context())
	group.SetLimit(atOnce)
	for i := range pods {
		group.Go(func() error { return step(&pods[i], ctx, n) })
	}
	n.Must(group.Wait())
	n.t.Logf("%d volumes were %s in %s", len(pods), done, time.Since(begin).Round(time.Millisecond))
}

// pod has a volume of 1 MiB.
type pod struct {
	name, id, target string
	volumeType       volume.Type
}

// newPod gives every other pod a file.
func (n *node) newPod(name string) pod {
	p := pod{name: name, target: n.target(name), volumeType: volume.DirectoryOrCreate}
	if name[len(name)-1]%2 == 0 {
		p.volumeType = volume.FileOrCreate
	}
	return p
}

func (p *pod) begin(ctx context.Context, n *node) (err error) {
	if p.id, err = n.create(ctx, p.name, p.volumeType, mib); err != nil {
		return err
	}
	return n.publish(ctx, p.id, p.target)
}

func (p *pod) file() string {
	if p.volumeType == volume.FileOrCreate {
		return p.target
	}
	return filepath.Join(p.target, "file")
}

// fill wants the volume to be full at its size: not before, not after.
func (p *pod) fill(context.Context, *node) error {
	written, err := fill(p.file())
	if err == nil && (written > mib || written < mib-slack) {
		err = fmt.Errorf("%s was full after %d bytes, want %d or a little less", p.name, written, mib)
	}
	return err
}

// check compares what kubelet is told.
func (p *pod) check(ctx context.Context, n *node) error {
	u, err := n.stats(ctx, p.id, p.target, csi.VolumeUsage_BYTES)
	if err == nil &&
		(u.GetTotal() != mib || u.GetUsed() > mib || u.GetUsed() < mib-slack || u.GetAvailable() != mib-u.GetUsed()) {
		err = fmt.Errorf("the stats of the full %s are %v", p.name, u)
	}
	return err
}

func (p *pod) end(ctx context.Context, n *node) error {
	if err := n.unpublish(ctx, p.id, p.target); err != nil {
		return err
	}
	// nothing is left for kubelet to stumble over
	if err := os.Remove(filepath.Dir(p.target)); err != nil {
		return err
	}
	return n.delete(ctx, p.id)
}

// wantQuotas asks the filesystem: every volume has an ID, none of which is anybody else's, limited
// to its size.
func (n *node) wantQuotas(volumes int) {
	n.t.Helper()
	quotas := guest.ProjectQuotas(n.t, n.disk, firstID)
	if len(quotas) != volumes {
		n.t.Errorf("%d projects have quotas, want %d", len(quotas), volumes)
	}
	for id, q := range quotas {
		if q.LimitBytes != mib || q.UsedBytes > mib || q.UsedBytes < mib-slack {
			n.t.Errorf("project %d has %+v", id, q)
		}
	}
}
