package main

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/lifecycle"
)

// maxListed bounds each list of a page.
const maxListed = 1000

// volumes is the text of /volumesz. Every pod of the cluster may be able to read it. So it has no
// volume IDs, which begin with the ID of a pool, and names no claims.
func (l *leadership) volumes() string {
	c := l.leading.Load()
	if c == nil {
		return "this replica is not the leader: ask another one\n"
	}
	return describeVolumes(c.Orphans(), c.GoneVolumes(), time.Now())
}

func describeVolumes(
	orphans []lifecycle.Orphan, gone []lifecycle.GoneVolume, now time.Time,
) string {
	var text strings.Builder
	fmt.Fprintf(&text, "volumes without a PersistentVolume: %d\n", len(orphans))
	for _, o := range orphans[:min(len(orphans), maxListed)] {
		fmt.Fprintf(&text, "node %s: pool %s: %s, seen since %s\n", o.Node, cmp.Or(o.Pool, "(unknown)"),
			o.Dir, describeTime(o.Since, now))
	}
	fmt.Fprintf(&text, "PersistentVolumes of deleted nodes: %d\n", len(gone))
	for _, v := range gone[:min(len(gone), maxListed)] {
		since, claim := "", "its claim is gone"
		if !v.Since.IsZero() {
			since = ", gone since " + describeTime(v.Since, now)
		}
		if v.Claimed {
			claim = "its claim exists"
		}
		fmt.Fprintf(&text, "node %s%s: %s, %s\n", v.Node, since, v.Name, claim)
	}
	if max(len(orphans), len(gone)) > maxListed {
		fmt.Fprintf(&text, "of each list only the first %d are shown\n", maxListed)
	}
	return text.String()
}

func describeTime(at, now time.Time) string {
	return fmt.Sprintf("%s (%s)", at.UTC().Format(time.RFC3339), now.Sub(at).Truncate(time.Second))
}
