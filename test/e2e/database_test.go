//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/cluster"
)

// sqlite is how the program runs in a pod: its libraries are beside it.
const sqlite = "/sqlite/loader --library-path /sqlite /sqlite/sqlite3"

// TestDatabaseUnderLoadHasAConsistentSnapshot: a snapshot is one moment, on btrfs and of an image.
// Every transaction adds two rows whose sum is nothing; whatever had been acknowledged before the
// snapshot is in it.
func TestDatabaseUnderLoadHasAConsistentSnapshot(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	cases := []struct{ name, class, filesystem string }{
		{"subvolume", "csi-hostpath", "btrfs"},
		{"image-reflinked", "csi-hostpath-image", "xfs"},
		{"image-copied", "csi-hostpath-image", "ext4"},
	}
	var pods, snapshots, copies strings.Builder
	var databases, names, readers []string
	for _, tc := range cases {
		node := nodeWith(t, tc.filesystem)
		putSQLite(t, node)
		p := withSQLite(mounts(tc.name, "/data"), node)
		pods.WriteString(claim(tc.name, tc.class, "256Mi") + pod(tc.name, p))
		snapshots.WriteString(snapshot(tc.name, tc.name))
		reader := tc.name + "-copy"
		copies.WriteString(
			restored(
				reader,
				tc.class,
				"256Mi",
				tc.name,
			) + pod(
				reader,
				withSQLite(mounts(reader, "/data"), node),
			),
		)
		databases, names, readers = append(databases,
			tc.name), append(names, tc.name), append(readers, reader)
	}
	apply(t, ns, pods.String())
	waitReady(t, ns, databases...)
	acknowledged := make(map[string]string)
	for _, name := range databases {
		sh(
			t,
			ns,
			name,
			sqlite+` /data/db "PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, v INTEGER, x BLOB);" >/dev/null`,
		)
		// One process for each transaction: what it has said is committed.
		sh(
			t,
			ns,
			name,
			`(while :; do `+sqlite+` /data/db "BEGIN IMMEDIATE;
			INSERT INTO t(v,x) VALUES(1,randomblob(9000));
			INSERT INTO t(v,x) VALUES(-1,randomblob(9000)); COMMIT;" >/dev/null 2>>/tmp/errors &&
			echo >>/tmp/committed
			done) >/dev/null 2>&1 &`,
		)
	}
	for _, name := range databases {
		acknowledged[name] = waitTransactions(t, ns, name)
	}
	apply(t, ns, snapshots.String())
	waitSnapshots(t, ns, names...)
	apply(t, ns, copies.String())
	waitReady(t, ns, readers...)
	for i, reader := range readers {
		check := `PRAGMA integrity_check; SELECT sum(v) = 0 AND count(*) % 2 = 0 AND count(*) / 2 >= ` + acknowledged[databases[i]] + ` FROM t;`
		if got := sh(t, ns, reader, sqlite+` /data/db "`+check+`"`); got != "ok\n1" {
			t.Errorf("%s says %q of itself, with %s transactions acknowledged before the snapshot", reader,
				got, acknowledged[databases[i]])
		}
	}
}

// putSQLite puts the machine's sqlite3 and what it is linked with where a rule lets pods of the
// node read it.
func putSQLite(t *testing.T, node *cluster.Node) {
	t.Helper()
	program, err := exec.LookPath("sqlite3")
	if err != nil {
		t.Fatal(err)
	}
	libraries, err := exec.CommandContext(t.Context(), "ldd", program).Output()
	if err != nil {
		t.Fatal(err)
	}
	target, err := node.HostPath("/srv/models/sqlite")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(target, 0o755); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"sqlite3": program}
	// libz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x…), or the loader's path alone
	for line := range strings.Lines(string(libraries)) {
		for field := range strings.FieldsSeq(line) {
			if filepath.IsAbs(field) {
				files[filepath.Base(field)] = field
			}
		}
	}
	for name, from := range files {
		if strings.HasPrefix(name, "ld-linux") {
			name = "loader"
		}
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(target, name), content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func withSQLite(p podSpec, node *cluster.Node) podSpec {
	p.node = node.Name()
	return p.withReadOnly("sqlite", "/sqlite", "path", "/srv/models/sqlite", "type", "Directory")
}

// waitTransactions waits until a database has committed ten transactions, and returns how many it
// has.
func waitTransactions(t *testing.T, ns, name string) (committed string) {
	t.Helper()
	eventually(t, readyTimeout, func() error {
		committed = sh(t, ns, name, "wc -l </tmp/committed 2>/dev/null || echo 0")
		if len(committed) < 2 {
			return fmt.Errorf("%s has %s transactions: %s", name, committed,
				sh(t, ns, name, "cat /tmp/errors"))
		}
		return nil
	})
	return committed
}
