package driver

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/csi-hostpath/csi-hostpath/pkg/config"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// When the driver is told to stop, it answers the calls that are under way, and begins no others.
func TestStopLetsCallsFinish(t *testing.T) {
	disks.RequireRoot(t)
	cfg := config.Default()
	cfg.NodeName, cfg.KubeletDir, cfg.Endpoint = "node-1", t.TempDir(), "unix://"+fixture.Socket(t)
	cfg.Pools = []config.Pool{config.NewPool("p", filepath.Join(t.TempDir(), "p"))}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, cfg) }()
	conn := dial(t, cfg.Endpoint)
	waitUntilReady(t, conn)

	// Clients make calls all the time. Each call gets its whole answer, or was never begun.
	answers := make(chan error)
	go func() {
		defer close(answers)
		for {
			_, err := csi.NewControllerClient(conn).ListVolumes(t.Context(), &csi.ListVolumesRequest{})
			answers <- err
			if err != nil {
				return
			}
		}
	}()
	for range 20 {
		if err := <-answers; err != nil {
			t.Fatal(err)
		}
	}
	stop()
	for {
		select {
		case err := <-answers:
			if err != nil && status.Code(err) != codes.Unavailable {
				t.Errorf("a call ended with %v", err)
			}
		case err := <-ended:
			if err != nil {
				t.Errorf("the driver ended with %v", err)
			}
			go func() { // the last caller waits for a driver that never starts
				for range answers {
				}
			}()
			return
		case <-time.After(fixture.Patience()):
			t.Fatal("the driver does not stop")
		}
	}
}
