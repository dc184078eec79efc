//go:build backup

package backup

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// fill makes what a backup may lose: owners, modes, times, links, extended attributes, holes.
const fill = `
mkdir -p /data/tree/many /data/tree/private "/data/tree/ä name" /data/tree/empty
cd /data/tree
i=0; while [ $i -lt 100 ]; do head -c $((i * 97)) /dev/urandom >many/$i; i=$((i + 1)); done
head -c 8388608 /dev/urandom >large
truncate -s 16777216 holes; echo end >>holes
echo secret >private/key; chmod 0600 private/key; chown 1000:2000 private private/key
chmod 02770 private
echo program >setuid; chown 33:33 setuid; chmod 04755 setuid
chmod 01777 empty
echo text >"ä name/ü"; touch -d "2001-02-03 04:05:06" "ä name/ü"
ln large hardlink; ln -s large symlink; ln -s /nowhere dangling; mkfifo fifo
setfattr -n user.origin -v attribute large
setfattr -n user.origin -v directory private
touch -d "2002-03-04 05:06:07" private empty many
chown 4000:5000 /data; chmod 0751 /data
sync`

// fingerprint prints what must be the same after a restore.
const fingerprint = files + `
find . -print0 | sort -z | xargs -0 getfattr -h -d -m user | grep -v "^$"`

// files prints it without extended attributes. The size of a directory is its filesystem's own.
const files = `
cd /data; stat -c "%n %F %a %u:%g" .; cd tree
find . -type d -exec stat -c "%n %F %a %u:%g %Y" {} + | sort
find . ! -type d -exec stat -c "%N %F %a %u:%g %h %s %Y" {} + | sort
find . -type f -exec sha256sum {} + | sort -k 2`

// load starts transactions of a database that go on until the pod ends. Each adds two rows whose
// sum is nothing, and is acknowledged in a line of /tmp/committed.
const load = `
sqlite3 /data/db "PRAGMA journal_mode=WAL;
  CREATE TABLE t(id INTEGER PRIMARY KEY, v INTEGER, x BLOB);" >/dev/null
(while :; do
  sqlite3 /data/db "BEGIN IMMEDIATE; INSERT INTO t(v,x) VALUES(1,randomblob(9000));
    INSERT INTO t(v,x) VALUES(-1,randomblob(9000)); COMMIT;" 2>>/tmp/errors &&
  echo >>/tmp/committed
  sleep 0.1
done) >/dev/null 2>&1 &`

// acknowledged waits until the database has committed ten transactions, and returns how many.
func acknowledged(t *testing.T, ns, pod string) int {
	t.Helper()
	var count int
	eventually(t, "transactions", func() error {
		text := sh(t, ns, pod, "wc -l </tmp/committed 2>/dev/null || echo 0")
		var err error
		if count, err = strconv.Atoi(text); err != nil || count < 10 {
			return fmt.Errorf("%s transactions, %w: %s", text, err,
				sh(t, ns, pod, "cat /tmp/errors 2>/dev/null || true"))
		}
		return nil
	})
	return count
}

// checkDatabase: it is whole, each transaction is there or not, and those that were acknowledged
// are.
func checkDatabase(t *testing.T, ns, pod, file string, atLeast int) {
	t.Helper()
	got := sh(t, ns, pod, `sqlite3 `+file+` "PRAGMA integrity_check; SELECT sum(v) = 0 AND
		count(*) % 2 = 0, count(*) / 2 >= `+strconv.Itoa(atLeast)+` FROM t;"`)
	if got != "ok\n1|1" {
		t.Errorf("%s says %q of itself, with %d transactions acknowledged before the backup", file, got,
			atLeast)
	}
}

// checkContent compares what is restored with what was backed up.
func checkContent(t *testing.T, got, want string) {
	t.Helper()
	if len(strings.Split(want, "\n")) < 200 {
		t.Fatalf("the source has only\n%s", want)
	}
	if got == want {
		return
	}
	wanted := map[string]bool{}
	for line := range strings.SplitSeq(want, "\n") {
		wanted[line] = true
	}
	for line := range strings.SplitSeq(got, "\n") {
		if !wanted[line] {
			t.Errorf("restored: %s", line)
		}
		delete(wanted, line)
	}
	for line := range wanted {
		t.Errorf("not restored: %s", line)
	}
}
