package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/command"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// poolWithVolume makes a pool with a directory volume v of 1 MiB. It returns the pool's directory
// and the path of the volume's record.
func poolWithVolume(t *testing.T) (dir, record string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "pool")
	p, err := pool.Open(t.Context(), pool.Options{Name: "p", Path: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}()
	name, err := volume.ParseName("v")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Create(t.Context(), volume.CreateRequest{
		Name: name, Size: volume.SizeRange{Required: 1 << 20},
		Spec: volume.Spec{
			Type: volume.DirectoryOrCreate, Mode: 0o755,
			UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), //nolint:gosec // never negative
		},
	}); err != nil {
		t.Fatal(err)
	}
	return dir, filepath.Join(dir, "volumes", "v", "volume.json")
}

func TestRepairWritesTheRecordOnlyWithYes(t *testing.T) {
	dir, record := poolWithVolume(t)
	before, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"repair", "--pool", dir, "--volume", "v"}
	if code, out, errs := call(nil, args...); code != 0 ||
		!strings.Contains(out, "The record is right") {
		t.Errorf("of a right record: %d, %q, %q", code, out, errs)
	}
	if err := os.Remove(record); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := call(nil, args...); code != command.ExitFailure ||
		!strings.Contains(errs, "--capacity") {
		t.Errorf("without a size: %d, %q", code, errs)
	}
	args = append(args, "--capacity", "1Mi")
	code, out, errs := call(nil, args...)
	if code != 0 || !strings.Contains(out, "Nothing was changed. To write the new record, add --yes.") {
		t.Errorf("without --yes: %d, %q, %q", code, out, errs)
	}
	if _, err := os.Stat(record); !os.IsNotExist(err) {
		t.Fatalf("without --yes there is a record: %v", err)
	}
	if code, out, errs := call(nil, append(args, "--yes")...); code != 0 ||
		!strings.Contains(out, "The new record is written") {
		t.Errorf("with --yes: %d, %q, %q", code, out, errs)
	}
	after, err := os.ReadFile(record)
	if err != nil || withoutCreated(after) != withoutCreated(before) {
		t.Errorf("the record is %s, %v, and was %s", after, err, before)
	}
}

// withoutCreated removes the time of creation, which a repaired record cannot have.
func withoutCreated(record []byte) string {
	var lines []string
	for line := range strings.Lines(string(record)) {
		if !strings.Contains(line, `"created"`) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

func TestRepairIsRefusedWhileADriverHasThePool(t *testing.T) {
	dir, _ := poolWithVolume(t)
	p, err := pool.Open(t.Context(), pool.Options{Name: "p", Path: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}()
	code, _, errs := call(nil, "repair", "--pool", dir, "--volume", "v", "--yes")
	if code != command.ExitFailure || !strings.Contains(errs, "stop the driver on this node first") {
		t.Errorf("%d, %q", code, errs)
	}
}

func TestRepairNamesEveryWrongFlag(t *testing.T) {
	code, _, errs := call(nil, "repair", "--type", "Socket", "--backing", "tape", "--fs-type", "vfat",
		"--allocation", "late", "--capacity", "much")
	for _, flag := range []string{"--pool", "--type", "--backing", "--fs-type", "--allocation", "--capacity"} {
		if code != command.ExitUsage || !strings.Contains(errs, flag) {
			t.Errorf("%d, %q: does not name %s", code, errs, flag)
		}
	}
}
