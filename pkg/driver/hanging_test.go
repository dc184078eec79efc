package driver

import (
	"testing"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/config"
	"github.com/csi-hostpath/csi-hostpath/pkg/serving"
	"github.com/csi-hostpath/csi-hostpath/pkg/stuck"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
	"github.com/csi-hostpath/csi-hostpath/test/fuse"
)

func TestPoolIsOpenedWhileTheFilesystemOfAnotherOneHangs(t *testing.T) {
	good, other := config.NewPool("good", t.TempDir()+"/good"), config.NewPool("other", t.TempDir())
	fs := fuse.Mount(t, other.Path)
	defer fs.Die() // before the cleanup waits for those that open the pools
	fs.Hang()
	pools := newPools(t, good, other)
	pools.asking = stuck.NewCalls(10 * time.Millisecond)
	keepOpening(t, pools)
	if pools.stillOpening() == nil {
		t.Error("the other pool has been tried, and its filesystem hangs")
	}
	pools.openingEnds = time.Now()
	if err := pools.stillOpening(); err != nil {
		t.Errorf("sidecars wait for a pool that hangs: %v", err)
	}
	fixture.Eventually(t, "the good pool is open", func() bool { return len(pools.Open()) == 1 })
	fs.WantAlive(t)
}

func TestPoolsThatCannotBeClosedAreLeftToTheNextDriver(t *testing.T) {
	p := config.NewPool("p", t.TempDir()+"/p")
	pools := newPools(t, p)
	fixture.Must(t, pools.open(t.Context(), pools.slots[0]))
	fixture.Must(t, closeWithin(t.Context(), pools, time.Second, serving.ErrCutOff))
	next := newPools(t, p)
	fixture.Must(t, next.open(t.Context(), next.slots[0]))
	fixture.Must(t, next.close())
	fixture.Must(t, pools.close())
}
