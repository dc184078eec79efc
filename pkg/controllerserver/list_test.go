package controllerserver

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
)

// list returns the IDs of all pages, and follows the tokens to the last page.
func (c *controller) list(t *testing.T, pageSize int32) []string {
	t.Helper()
	var ids []string
	for token := ""; ; {
		resp, err := c.ListVolumes(t.Context(),
			&csi.ListVolumesRequest{MaxEntries: pageSize, StartingToken: token})
		if err != nil {
			t.Fatal(err)
		}
		if n := len(resp.GetEntries()); pageSize > 0 && n > int(pageSize) {
			t.Fatalf("a page of %d has %d", pageSize, n)
		}
		for _, e := range resp.GetEntries() {
			ids = append(ids, e.GetVolume().GetVolumeId())
		}
		if token = resp.GetNextToken(); token == "" {
			return ids
		}
	}
}

func TestPagesOverSeveralPoolsAreComplete(t *testing.T) {
	c := newController(t, "a", "b", "c") // pool c stays empty
	var want []string
	for i := range 7 {
		for _, pool := range []string{"a", "b"} {
			want = append(want,
				c.create(t, with(t, fmt.Sprintf("v-%d", i), map[string]string{"pool": pool})).GetVolumeId())
		}
	}
	slices.Sort(want)
	for _, size := range []int32{0, 1, 2, 6, 7, 8, 13, 14, 15, math.MaxInt32} {
		if got := c.list(t, size); !slices.Equal(got, want) {
			t.Errorf("in pages of %d: %q, want %q", size, got, want)
		}
	}
}

func TestNoVolumesAreOneEmptyPage(t *testing.T) {
	if got := newController(t, "p").list(t, 0); len(got) > 0 {
		t.Errorf("an empty pool lists %q", got)
	}
}

// An answer with as many entries as possible still fits into a gRPC message.
func TestPageHasABound(t *testing.T) {
	c := newController(t, "p")
	const volumes = maxPage + 1
	for i := range volumes {
		c.create(t, createRequest(fmt.Sprintf("v-%d", i)))
	}
	for _, size := range []int32{0, math.MaxInt32} {
		resp, err := c.ListVolumes(t.Context(), &csi.ListVolumesRequest{MaxEntries: size})
		if err != nil || len(resp.GetEntries()) != maxPage || resp.GetNextToken() == "" {
			t.Errorf("max_entries %d: %d entries, token %q, %v", size, len(resp.GetEntries()),
				resp.GetNextToken(), err)
		}
		if got := c.list(t, size); len(got) != volumes {
			t.Errorf("max_entries %d: %d volumes in all, want %d", size, len(got), volumes)
		}
	}
}

func TestHostileListRequestIsRefused(t *testing.T) {
	c := newController(t, "p")
	for _, token := range []string{
		"x", "0", "-1", "99999999999999999999", "../..", "\x00", "\xff", strings.Repeat("x", 1<<20), "0123456789ab-..",
	} {
		_, err := c.ListVolumes(t.Context(), &csi.ListVolumesRequest{StartingToken: token})
		wantCode(t, err, codes.Aborted)
	}
	for _, entries := range []int32{-1, math.MinInt32} {
		_, err := c.ListVolumes(t.Context(), &csi.ListVolumesRequest{MaxEntries: entries})
		wantCode(t, err, codes.InvalidArgument)
	}
}

// A token stays valid when its volume, or its pool, no longer exists.
func TestTokenOutlivesItsVolume(t *testing.T) {
	c := newController(t, "p")
	for _, name := range []string{"a", "b", "c"} {
		c.create(t, createRequest(name))
	}
	resp, err := c.ListVolumes(t.Context(), &csi.ListVolumesRequest{MaxEntries: 2})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.DeleteVolume(
		t.Context(),
		&csi.DeleteVolumeRequest{VolumeId: resp.GetNextToken()},
	); err != nil {
		t.Fatal(err)
	}
	resp, err = c.ListVolumes(t.Context(), &csi.ListVolumesRequest{StartingToken: resp.GetNextToken()})
	if err != nil || len(resp.GetEntries()) != 1 ||
		!strings.HasSuffix(resp.GetEntries()[0].GetVolume().GetVolumeId(), "-c") {
		t.Errorf("the second page is %v, %v, want c", resp, err)
	}
	for token, want := range map[string]int{"000000000000-x": 2, "ffffffffffff-x": 0} {
		resp, err := c.ListVolumes(t.Context(), &csi.ListVolumesRequest{StartingToken: token})
		if err != nil || len(resp.GetEntries()) != want {
			t.Errorf("after %s: %v, %v, want %d volumes", token, resp, err, want)
		}
	}
}

func TestClientThatPagesSeesEverySurvivorOnce(t *testing.T) {
	c := newController(t, "a", "b")
	var survivors []string
	for i := range 40 {
		for _, pool := range []string{"a", "b"} {
			survivors = append(survivors,
				c.create(t, with(t, fmt.Sprintf("v-%02d", i), map[string]string{"pool": pool})).GetVolumeId())
		}
	}
	stop := churn(t, func(client, i int) error {
		params := map[string]string{"pool": []string{"a", "b"}[client%2]}
		resp, err := c.CreateVolume(t.Context(), with(t, fmt.Sprintf("v-%02d-%d", i%40, client), params))
		if err == nil {
			_, err = c.DeleteVolume(t.Context(),
				&csi.DeleteVolumeRequest{VolumeId: resp.GetVolume().GetVolumeId()})
		}
		return err
	})
	defer stop()
	for range 20 {
		seen := map[string]int{}
		for _, id := range c.list(t, 7) {
			seen[id]++
		}
		for _, id := range survivors {
			if seen[id] != 1 {
				t.Errorf("%s was listed %d times", id, seen[id])
			}
		}
	}
}

// churn runs four clients that create and delete volumes or snapshots between those that every list
// must have, until stop is called.
func churn(t *testing.T, once func(client, i int) error) (stop func()) {
	t.Helper()
	stopped := make(chan struct{})
	var wg sync.WaitGroup
	for client := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stopped:
					return
				default:
				}
				if err := once(client, i); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	return func() {
		close(stopped)
		wg.Wait()
	}
}
