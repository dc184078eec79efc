//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// TestDatabaseOnTwoVolumesIsConsistentInAGroupSnapshot: a transaction that changes two database
// files, on two volumes, is in both or in none (a super-journal of SQLite, whose name is in the
// journal of each file). Whatever had been acknowledged before the group snapshot is in it.
func TestDatabaseOnTwoVolumesIsConsistentInAGroupSnapshot(t *testing.T) {
	onlyIn(t, "central")
	ns := newNamespace(t)
	cases := []struct{ name, filesystem, dataClass, logClass string }{
		{"subvolumes", "btrfs", "csi-hostpath", "csi-hostpath"},
		{"mixed", "btrfs", "csi-hostpath", "csi-hostpath-image"},
		{"images", "xfs", "csi-hostpath-image", "csi-hostpath-image"},
	}
	var pods, groups, copies strings.Builder
	var names, readers []string
	for _, tc := range cases {
		node := nodeWith(t, tc.filesystem)
		putSQLite(t, node)
		label := ", labels: {database: " + tc.name + "}"
		pods.WriteString(claim(tc.name+"-data"+label, tc.dataClass, "64Mi") +
			claim(tc.name+"-log"+label, tc.logClass, "64Mi") +
			pod(tc.name, withSQLite(mounts(tc.name+"-data", "/data", tc.name+"-log", "/log"), node)))
		groups.WriteString(groupOfClaims(tc.name, "database: "+tc.name))
		names, readers = append(names, tc.name), append(readers, tc.name+"-copy")
	}
	apply(t, ns, pods.String())
	waitReady(t, ns, names...)
	acknowledged := make(map[string]string)
	for _, name := range names {
		sh(t, ns, name, sqlite+` /data/db "ATTACH '/log/db' AS log; CREATE TABLE main.t(x BLOB);
			CREATE TABLE log.t(x BLOB);"`)
		sh(t, ns, name, `(while :; do `+sqlite+` /data/db "ATTACH '/log/db' AS log; BEGIN IMMEDIATE;
			INSERT INTO main.t VALUES(randomblob(9000));
			INSERT INTO log.t VALUES(randomblob(9000)); COMMIT;" >/dev/null 2>>/tmp/errors &&
			echo >>/tmp/committed
			done) >/dev/null 2>&1 &`)
	}
	for _, name := range names {
		acknowledged[name] = waitTransactions(t, ns, name)
	}
	apply(t, ns, groups.String())
	for i, tc := range cases {
		node := nodeWith(t, tc.filesystem)
		snapshots := waitGroupSnapshot(t, ns, tc.name)
		reader := readers[i]
		for volume, class := range map[string]string{"data": tc.dataClass, "log": tc.logClass} {
			copies.WriteString(
				restored(reader+"-"+volume, class, "64Mi", snapshots[tc.name+"-"+volume]))
		}
		copies.WriteString(
			pod(reader, withSQLite(mounts(reader+"-data", "/data", reader+"-log", "/log"), node)))
	}
	apply(t, ns, copies.String())
	waitReady(t, ns, readers...)
	for i, reader := range readers {
		check := `ATTACH '/log/db' AS log; PRAGMA integrity_check; SELECT count(*) = (SELECT count(*) ` +
			`FROM log.t) AND count(*) >= ` + acknowledged[names[i]] + ` FROM main.t;`
		if got := sh(t, ns, reader, sqlite+` /data/db "`+check+`"`); got != "ok\n1" {
			t.Errorf("%s says %q of itself, with %s transactions acknowledged before the snapshot", reader,
				got, acknowledged[names[i]])
		}
	}
	deleteGroups(t, ns, names)
}

func groupOfClaims(name, label string) string {
	return fmt.Sprintf(`
---
apiVersion: groupsnapshot.storage.k8s.io/v1
kind: VolumeGroupSnapshot
metadata: {name: %s}
spec:
  volumeGroupSnapshotClassName: csi-hostpath
  source: {selector: {matchLabels: {%s}}}
`, name, label)
}

// waitGroupSnapshot waits until all snapshots of a group snapshot are ready. It returns their names
// by their claims.
func waitGroupSnapshot(t *testing.T, ns, name string) map[string]string {
	t.Helper()
	eventually(t, readyTimeout, func() error {
		ready := kubectl(t, "-n", ns, "get", "volumegroupsnapshot", name, "-o",
			"jsonpath={.status.readyToUse} {.status.error.message}")
		if !strings.HasPrefix(ready, "true") {
			return fmt.Errorf("group snapshot %s is ready: %q", name, ready)
		}
		return nil
	})
	snapshots := map[string]string{}
	eventually(t, readyTimeout, func() error {
		lines := kubectl(t, "-n", ns, "get", "volumesnapshots", "-o", "jsonpath={range .items[*]}"+
			"{.metadata.ownerReferences[0].name} {.metadata.name} {.spec.source.persistentVolumeClaimName} "+
			"{.status.readyToUse}{\"\\n\"}{end}")
		for line := range strings.Lines(lines) {
			fields := strings.Fields(line)
			if len(fields) == 4 && fields[0] == name && fields[3] == "true" {
				snapshots[fields[2]] = fields[1]
			}
		}
		if len(snapshots) != 2 {
			return fmt.Errorf("group snapshot %s has the snapshots %q of\n%s", name, snapshots, lines)
		}
		return nil
	})
	return snapshots
}

// deleteGroups deletes group snapshots, and waits until their snapshots are gone.
func deleteGroups(t *testing.T, ns string, names []string) {
	t.Helper()
	kubectl(t, append([]string{"-n", ns, "delete", "volumegroupsnapshot"}, names...)...)
	eventually(t, readyTimeout, func() error {
		if left := kubectl(t, "-n", ns, "get", "volumesnapshots", "-o", "name"); left != "" {
			return fmt.Errorf("these snapshots are left: %s", left)
		}
		return nil
	})
}
