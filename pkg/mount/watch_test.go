package mount

import (
	"context"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

func TestWatchReportsAMount(t *testing.T) {
	disks.RequireRoot(t)
	ctx, stop := context.WithCancel(t.Context())
	changes, ended := make(chan struct{}, 100), make(chan error, 1)
	go func() { ended <- Watch(ctx, time.Hour, func() { changes <- struct{}{} }) }()
	at := t.TempDir()
	// A change that comes before Watch has opened the table is not reported: mount until one is.
	mounted := 0
	t.Cleanup(func() {
		for range mounted {
			_ = unix.Unmount(at, unix.MNT_DETACH)
		}
	})
	for deadline := time.Now().Add(time.Minute); ; {
		if err := unix.Mount("none", at, "tmpfs", 0, "size=4k"); err != nil {
			t.Fatal(err)
		}
		mounted++
		select {
		case <-changes:
		case <-time.After(100 * time.Millisecond):
			if time.Now().Before(deadline) {
				continue
			}
			t.Fatal("no mount was reported")
		}
		break
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestWatchReportsAtLeastOnceInTheInterval(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	reported := 0
	err := Watch(ctx, time.Millisecond, func() {
		if reported++; reported == 3 {
			stop()
		}
	})
	if err != nil || reported < 3 {
		t.Errorf("%d reports, %v", reported, err)
	}
}
