package pool

import (
	"os"
	"reflect"
	"sync/atomic"
	"testing"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// chargedByOthers is a backend for whose volumes that much more counts than their files hold.
type chargedByOthers struct {
	bytes  int64
	passes atomic.Int32
}

func (c *chargedByOthers) Overcharge(
	_ *os.File, _ volume.QuotaID, proceed func() error,
) (backend.Overcharge, error) {
	c.passes.Add(1)
	return backend.Overcharge{Bytes: c.bytes}, proceed()
}

// Only full volumes are looked at, and each at most once an hour.
func TestVolumeIsAuditedWhenItIsFullAndNotAgainForAnHour(t *testing.T) {
	const size = 64 * mib
	p := newPool(t)
	found := &chargedByOthers{bytes: size / 2}
	p.audits = newAudits(t.Context(), p, found)
	v, err := p.Get(create(t, p, "v", size).ID)
	fixture.Must(t, err)
	data, err := v.Data()
	fixture.Must(t, err)
	defer data.Close()
	ask := func(used int64) {
		u := volume.Usage{TotalBytes: size, UsedBytes: used, TotalInodes: 1000, UsedInodes: 10}
		p.audits.note(v, data, u)
		p.audits.running.Wait()
	}
	for _, step := range []struct {
		name            string
		used            int64
		bytes           int64 // that count besides
		age             time.Duration
		passes          int32 // since the step before
		wantOvercharged int
	}{
		{"has room", size / 2, size / 2, 0, 0, 0},
		{"is full", size, size / 2, 0, auditPasses, 1},
		{"is full as before", size, size / 2, 0, 0, 1},
		{"has room again", size / 2, size / 2, 0, 0, 0},
		{"is full again, soon", size, size / 2, 0, 0, 0},
		{"is full after an hour", size - fullSlack, size / 2, auditInterval, auditPasses, 1},
		{"is full of its own files", size, size / 100, auditInterval, auditPasses, 0},
	} {
		found.bytes = step.bytes
		found.passes.Store(0)
		if last, ok := p.audits.last[v.ID]; ok {
			last.at = last.at.Add(-step.age)
			p.audits.last[v.ID] = last
		}
		ask(step.used)
		if passes := found.passes.Load(); passes != step.passes {
			t.Errorf("%s: it was looked at %d times, want %d", step.name, passes, step.passes)
		}
		if n := status(t, p).Overcharged; n != step.wantOvercharged {
			t.Errorf("%s: %d volumes are overcharged, want %d", step.name, n, step.wantOvercharged)
		}
	}
	p.audits.close()
	found.passes.Store(0)
	p.audits.last = map[volume.ID]audit{v.ID: {at: time.Now(), overcharged: true}}
	if n := status(t, p).Overcharged; n != 1 {
		t.Errorf("%d volumes are overcharged, want 1", n)
	}
	want := []Unhealthy{{v.ID, []volume.Fault{volume.FaultOvercharged}}}
	if got := p.Unhealthy("", 9); !reflect.DeepEqual(got, want) {
		t.Errorf("unhealthy are %v, want %v", got, want)
	}
	remove(t, p, v.ID)
	if n := status(t, p).Overcharged; n != 0 {
		t.Errorf("%d deleted volumes are overcharged", n)
	}
	delete(p.audits.last, v.ID)
	if ask(size); found.passes.Load() > 0 {
		t.Error("a volume was looked at after close")
	}
}
