//go:build vm

package quotas

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
	rights "github.com/csi-hostpath/csi-hostpath/test/pod"
	"github.com/csi-hostpath/csi-hostpath/test/vm/guest"
)

// A pod knows the project ID of its volume, and may give its files any other. If IDs were
// consecutive, the ones near it would be its neighbours'.
func TestPodCannotGuessWhoseQuotaItUses(t *testing.T) {
	const (
		size = 8 * mib
		near = 16 // IDs in each direction
	)
	for _, fstype := range filesystems {
		t.Run(fstype, func(t *testing.T) {
			n := newNode(t, guest.Disk(t, fstype), "guessed", "")
			n.Start()
			before, attacker, after := n.mustPublish("before", size), n.mustPublish("attacker", size),
				n.mustPublish("after", size)
			own, err := guest.ProjectOf(attacker.target)
			n.Must(err)
			for guess := own - near; guess <= own+near; guess++ {
				if guess != own {
					chargeTo(t, filepath.Join(attacker.target, fmt.Sprint(guess)), size*3/4, guess)
				}
			}
			for _, neighbour := range []published{before, after} {
				written, err := fill(filepath.Join(neighbour.target, "file"))
				if err != nil || written < size-slack {
					t.Errorf("a neighbour was full after %d bytes, %v, want %d", written, err, size)
				}
			}
			for _, v := range []published{before, attacker, after} {
				n.mustRemove(v)
			}
			n.wantNothingLeft()
		})
	}
}

// A file of another volume is charged to a volume that is deleted. The deletion must not wait for
// the file: everything but what the file takes is given back, the name is free, and nobody gets
// the ID.
func TestDeletionDoesNotWaitForAForeignFile(t *testing.T) {
	const (
		size    = 64 * mib
		charged = 4 * mib
		margin  = mib // what the filesystem takes meanwhile
	)
	for _, fstype := range filesystems {
		t.Run(fstype, func(t *testing.T) {
			n := newNode(t, guest.Disk(t, fstype), "foreign", "")
			n.Start()
			victim, attacker := n.mustPublish("victim", size), n.mustPublish("attacker", 2*charged)
			id, err := guest.ProjectOf(victim.target)
			n.Must(err)
			foreign := filepath.Join(attacker.target, "foreign")
			chargeTo(t, foreign, charged, id)
			before := n.available()
			n.mustRemove(victim)
			n.eventually("the deletion ends", func() bool {
				return len(n.entries("trash")) == 0 && n.available() >= before+size-charged-margin
			})
			if got := n.available(); got > before+size-charged+margin {
				t.Errorf("%d bytes are available, and a file of %d is there: want %d", got, charged,
					before+size-charged)
			}
			if written, err := fill(foreign); err != nil || written > slack {
				t.Errorf("%d bytes more went into the file, %v", written, err)
			}
			victim = n.mustPublish("victim", size)
			if again, err := guest.ProjectOf(victim.target); again == id || err != nil {
				t.Errorf("the next volume has project ID %d, %v", again, err)
			}
			n.Must(os.Remove(foreign))
			n.eventually("the file's bytes are given back, and its ID has no limit", func() bool {
				return n.available() >= before-margin &&
					guest.ProjectQuota(t, n.disk, id) == guest.Quota{}
			})
			n.mustRemove(victim)
			n.mustRemove(attacker)
			n.wantNothingLeft()
		})
	}
}

// An operator can undo it while the driver runs and the pod has its volume.
func TestRechargeGivesAVolumeItsRoomBack(t *testing.T) {
	const size, charged = 8 * mib, 6 * mib
	for _, fstype := range filesystems {
		t.Run(fstype, func(t *testing.T) {
			n := newNode(t, guest.Disk(t, fstype), "recharged", "")
			n.Start()
			victim, attacker := n.mustPublish("victim", size), n.mustPublish("attacker", size)
			id, err := guest.ProjectOf(victim.target)
			n.Must(err)
			own, err := guest.ProjectOf(attacker.target)
			n.Must(err)
			chargeTo(t, filepath.Join(attacker.target, "foreign"), charged, id)
			for _, step := range []struct {
				flags       []string
				of          uint32 // the project for which the file counts then
				wantMention string
			}{
				{nil, id, "volumes/attacker/data/foreign counts for project " + fmt.Sprint(id) +
					": it is volume " + victim.id},
				{[]string{"--yes"}, own, "Charged to their volumes: 1."},
				{nil, own, "Every file that was looked at counts for its volume."},
			} {
				cmd := exec.CommandContext(t.Context(), fixture.Build(t),
					append([]string{"recharge", "--pool", n.Path("pool")}, step.flags...)...)
				out, err := cmd.CombinedOutput()
				if err != nil || !strings.Contains(string(out), step.wantMention) {
					t.Errorf("recharge %q: %v, %s; want %q", step.flags, err, out, step.wantMention)
				}
				for _, project := range []uint32{id, own} {
					used := guest.ProjectQuota(t, n.disk, project).UsedBytes
					if (used >= charged) != (project == step.of) {
						t.Errorf("after recharge %q %d bytes count for project %d", step.flags, used, project)
					}
				}
			}
			n.mustRemove(victim)
			n.mustRemove(attacker)
			n.wantNothingLeft()
		})
	}
}

// A pod whose volume is full of another pod's files sees less in it than it may write. The driver
// says so once kubelet asks for the volume's statistics, until the files are charged to their own
// volume.
func TestFullVolumeToWhichOthersChargeTheirFilesIsSaid(t *testing.T) {
	const (
		size, charged = 8 * mib, 6 * mib
		metrics       = "127.0.0.1:18080"
	)
	for _, fstype := range filesystems {
		t.Run(fstype, func(t *testing.T) {
			n := newNode(t, guest.Disk(t, fstype), "overcharged", "")
			n.SetArgs("--config", n.config, "--metrics-address", metrics)
			n.Start()
			wantOvercharged := func(count int) {
				t.Helper()
				n.eventually(fmt.Sprintf("%d volumes are overcharged", count), func() bool {
					return strings.Contains(get(t, "http://"+metrics+"/metrics"),
						fmt.Sprintf("csi_hostpath_pool_volumes_overcharged{pool=\"p\"} %d\n", count))
				})
			}
			victim, attacker := n.mustPublish("victim", size), n.mustPublish("attacker", size)
			id, err := guest.ProjectOf(victim.target)
			n.Must(err)
			chargeTo(t, filepath.Join(attacker.target, "foreign"), charged, id)
			n.mustAskUsage(victim) // it is not full yet
			wantOvercharged(0)
			_, err = fill(filepath.Join(victim.target, "file"))
			n.Must(err)
			n.mustAskUsage(attacker)
			n.mustAskUsage(victim)
			wantOvercharged(1)
			if log := n.Log(); !strings.Contains(log, "more counts for its project ID than its files") ||
				!strings.Contains(log, victim.id) {
				t.Error("the log does not say which volume it is")
			}
			recharge := exec.CommandContext(t.Context(), fixture.Build(t), "recharge", "--yes",
				"--pool", n.Path("pool"))
			if out, err := recharge.CombinedOutput(); err != nil {
				t.Fatalf("recharge: %v, %s", err, out)
			}
			n.mustAskUsage(victim)
			wantOvercharged(0)
			n.mustRemove(victim)
			n.mustRemove(attacker)
			n.wantNothingLeft()
		})
	}
}

func (n *node) mustAskUsage(v published) {
	n.t.Helper()
	_, err := n.stats(n.t.Context(), v.id, v.target, csi.VolumeUsage_BYTES)
	n.Must(err)
}

func get(t *testing.T, url string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	fixture.Must(t, err)
	resp, err := http.DefaultClient.Do(request)
	fixture.Must(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	fixture.Must(t, err)
	return string(text)
}

// chargeTo makes a file of that size as a pod does, and charges it to a project.
func chargeTo(t *testing.T, path string, bytes int64, project uint32) {
	t.Helper()
	rights.Run(t, func() error {
		f, err := os.Create(path)
		if err == nil {
			err = unix.Fallocate(int(f.Fd()), 0, 0, bytes)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			return err
		}
		return guest.SetProject(path, project)
	})
}

// published is a volume and where its pod sees it.
type published struct{ id, target string }

func (n *node) mustPublish(name string, size int64) published {
	n.t.Helper()
	id, err := n.create(n.t.Context(), name, volume.DirectoryOrCreate, size)
	n.Must(err)
	v := published{id: id, target: n.target(name)}
	n.Must(n.publish(n.t.Context(), v.id, v.target))
	return v
}

// mustRemove takes a volume away from its pod, and deletes it.
func (n *node) mustRemove(v published) {
	n.t.Helper()
	n.Must(n.unpublish(n.t.Context(), v.id, v.target))
	n.Must(n.delete(n.t.Context(), v.id))
}

// available is what the scheduler is told of the pool.
func (n *node) available() int64 {
	n.t.Helper()
	resp, err := n.Controller.GetCapacity(n.t.Context(), &csi.GetCapacityRequest{
		VolumeCapabilities: []*csi.VolumeCapability{fixture.MountCapability("")},
	})
	n.Must(err)
	return resp.GetAvailableCapacity()
}
