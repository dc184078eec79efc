//go:build vm

package quotas

import (
	"fmt"
	"os"
	"regexp"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/vm/guest"
)

// Earlier versions gave out consecutive project IDs. Such a pool keeps the IDs of its records. (The
// archives of test/oldpools have quota IDs only of btrfs: they were made where no filesystem has
// project quotas.)
func TestPoolWithConsecutiveIDsKeepsThem(t *testing.T) {
	const volumes, first = 3, firstID + 1000
	for _, fstype := range filesystems {
		t.Run(fstype, func(t *testing.T) {
			n := newNode(t, guest.Disk(t, fstype), "consecutive", "")
			n.Start()
			var ids, paths, records []string
			for i := range volumes {
				name := fmt.Sprintf("old-%d", i)
				id, err := n.create(t.Context(), name, volume.DirectoryOrCreate, mib)
				n.Must(err)
				ids = append(ids, id)
				paths = append(paths, n.Path("pool", "volumes", name))
			}
			n.Stop()
			for i, path := range paths {
				records = append(records, n.renumber(path, first+uint32(i))) //nolint:gosec // a small number
			}
			n.Start()
			for i, path := range paths {
				want := first + uint32(i) //nolint:gosec // as above
				project, err := guest.ProjectOf(path + "/data")
				if project != want || err != nil {
					t.Errorf("%s has project %d, %v, want %d", path, project, err, want)
				}
				if q := guest.ProjectQuota(t, n.disk, want); q.LimitBytes != mib || q.UsedInodes != 1 {
					t.Errorf("project %d has %+v", want, q)
				}
				if got, err := os.ReadFile(path + "/volume.json"); string(got) != records[i] || err != nil {
					t.Errorf("the record of %s is %s, %v, want %s", path, got, err, records[i])
				}
			}
			v := n.mustPublish("new", mib)
			if project, err := guest.ProjectOf(v.target); err != nil ||
				project >= first && project <= first+volumes {
				t.Errorf("the new volume has project %d, %v", project, err)
			}
			n.mustRemove(v)
			for _, id := range ids {
				n.Must(n.delete(t.Context(), id))
			}
			n.wantNothingLeft()
		})
	}
}

// renumber makes a volume of the pool, whose driver is not running, one with another project ID. It
// returns the record.
func (n *node) renumber(path string, project uint32) string {
	n.t.Helper()
	was, err := guest.ProjectOf(path + "/data")
	n.Must(err)
	text, err := os.ReadFile(path + "/volume.json")
	n.Must(err)
	text = regexp.MustCompile(`"quotaTag": *\d+`).
		ReplaceAll(text, fmt.Appendf(nil, `"quotaTag": %d`, project))
	n.Must(os.WriteFile(path+"/volume.json", text, 0o600))
	n.Must(guest.SetProject(path+"/data", project))
	guest.LimitProject(n.t, n.disk, project, mib)
	guest.LimitProject(n.t, n.disk, was, 0)
	return string(text)
}
