package controllerserver

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/csi-hostpath/csi-hostpath/pkg/health"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// knownPools are somePools with the states that a test gives them.
type knownPools struct {
	somePools

	known []health.Pool
}

func (k knownPools) Known() []health.Pool { return k.known }

func (k knownPools) Candidates(id volume.PoolID) ([]health.Pool, error) {
	for _, p := range k.known {
		if p.Pool != nil && p.Pool.ID() == id {
			return []health.Pool{p}, nil
		}
	}
	return k.somePools.Candidates(id)
}

// listHealth returns the volumes of all pages, each with its reasons.
func (c *controller) listHealth(t *testing.T, pageSize int32) (lines []string) {
	t.Helper()
	for token := ""; ; {
		resp, err := c.ControllerListVolumeHealth(t.Context(),
			&csi.ControllerListVolumeHealthRequest{MaxEntries: pageSize, StartingToken: token})
		if err != nil {
			t.Fatal(err)
		}
		if n := len(resp.GetEntries()); pageSize > 0 && n > int(pageSize) {
			t.Fatalf("a page of %d has %d", pageSize, n)
		}
		for _, e := range resp.GetEntries() {
			lines = append(lines, line(e))
		}
		if token = resp.GetNextToken(); token == "" {
			return lines
		}
	}
}

func line(h *csi.VolumeHealth) string {
	var reasons []string
	for _, e := range h.GetHealthStatuses() {
		reasons = append(reasons, e.GetReason())
	}
	return fmt.Sprint(h.GetVolumeId(), reasons)
}

// newUnhealthy returns a controller with two pools of three volumes. The records of two volumes of
// each pool are damaged.
func newUnhealthy(t *testing.T) (c *controller, damaged []string) {
	t.Helper()
	c = newController(t)
	for _, name := range []string{"a", "b"} {
		options := pool.Options{Name: name, Path: filepath.Join(t.TempDir(), name)}
		p, err := pool.Open(t.Context(), options)
		if err != nil {
			t.Fatal(err)
		}
		c.Server = New(Options{Pools: somePools{p}, Publications: c.published})
		for i := range 3 {
			v := c.create(t, with(t, fmt.Sprintf("v-%d", i), map[string]string{"pool": name}))
			if i == 1 {
				continue
			}
			damaged = append(damaged, v.GetVolumeId()+"[RecordDamaged]")
			record := filepath.Join(options.Path, "volumes", fmt.Sprintf("v-%d", i), "volume.json")
			if err := os.WriteFile(record, []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		c.open(t, options)
	}
	c.Server = New(Options{Pools: c.pools, Publications: c.published})
	slices.Sort(damaged)
	return c, damaged
}

func TestListOfHealthHasTheUnhealthyVolumesOfAllPools(t *testing.T) {
	c, damaged := newUnhealthy(t)
	for _, size := range []int32{0, 1, 2, 3, 4, 5} {
		if got := c.listHealth(t, size); !slices.Equal(got, damaged) {
			t.Errorf("in pages of %d: %q, want %q", size, got, damaged)
		}
	}
	for _, want := range damaged {
		id := want[:len(want)-len("[RecordDamaged]")]
		resp, err := c.ControllerGetVolumeHealth(t.Context(),
			&csi.ControllerGetVolumeHealthRequest{VolumeId: id})
		if err != nil || line(resp.GetVolumeHealth()) != want {
			t.Errorf("health of %s: %v, %v", id, resp, err)
		}
	}
}

// The pool whose disk has gone is closed, and its volumes are still known.
func TestEveryVolumeOfAPoolThatCannotBeUsedIsListed(t *testing.T) {
	c, damaged := newUnhealthy(t)
	gone := c.pools[0]
	c.Pools = knownPools{c.pools, []health.Pool{
		{Name: "a", Pool: gone, Reason: volume.ReasonDisplaced}, {Name: "b", Pool: c.pools[1]},
	}}
	var want []string
	for _, v := range gone.List("", 9) {
		reasons := "[PoolDisplaced]"
		if slices.Contains(damaged, v.ID.String()+"[RecordDamaged]") {
			reasons = "[PoolDisplaced RecordDamaged]"
		}
		want = append(want, v.ID.String()+reasons)
	}
	for _, d := range damaged {
		if d[:12] != string(gone.ID()) {
			want = append(want, d)
		}
	}
	slices.Sort(want)
	for _, size := range []int32{0, 1, 2, 9} {
		if got := c.listHealth(t, size); !slices.Equal(got, want) {
			t.Errorf("in pages of %d: %q, want %q", size, got, want)
		}
	}
}

func TestHealthCallsAnswerWithTheirCodes(t *testing.T) {
	c := newController(t, "p")
	id := c.create(t, createRequest("v")).GetVolumeId()
	for handle, want := range map[string]codes.Code{
		"":                         codes.InvalidArgument,
		id:                         codes.OK,
		id + "-absent":             codes.NotFound,
		"0123456789ab-v":           codes.NotFound,
		closedPool + "-v":          codes.Unavailable,
		"host-0123456789ab-v":      codes.OK,
		"csi-" + "no-volume-of-us": codes.NotFound,
	} {
		_, err := c.ControllerGetVolumeHealth(t.Context(),
			&csi.ControllerGetVolumeHealthRequest{VolumeId: handle})
		wantCode(t, err, want)
	}
	for _, req := range []*csi.ControllerListVolumeHealthRequest{
		{StartingToken: "x"}, {StartingToken: "0123456789ab-.."},
	} {
		_, err := c.ControllerListVolumeHealth(t.Context(), req)
		wantCode(t, err, codes.Aborted)
	}
	_, err := c.ControllerListVolumeHealth(t.Context(),
		&csi.ControllerListVolumeHealthRequest{MaxEntries: -1})
	wantCode(t, err, codes.InvalidArgument)
	known := c.pools.Known()
	c.Pools = knownPools{c.pools, append(known, health.Pool{
		Name: "optional", Reason: volume.ReasonAbsent, IsOptional: true,
	})}
	_, err = c.ControllerListVolumeHealth(t.Context(), &csi.ControllerListVolumeHealthRequest{})
	wantCode(t, err, codes.OK)
	c.Pools = knownPools{c.pools, append(known, health.Pool{
		Name: "closed", Reason: volume.ReasonAbsent,
	})}
	_, err = c.ControllerListVolumeHealth(t.Context(), &csi.ControllerListVolumeHealthRequest{})
	wantCode(t, err, codes.Unavailable)
}
