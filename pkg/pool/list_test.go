package pool

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

func TestPagesAreInTheOrderOfIDs(t *testing.T) {
	p := newPool(t)
	var want []volume.ID
	for _, name := range []string{"b", "a", "Z", "9", "a-", "a.b", "sp ace", "name/with/slashes"} {
		want = append(want, create(t, p, name, 1).ID)
	}
	slices.SortFunc(want, volume.ID.Compare)
	for limit := 1; limit <= len(want)+1; limit++ {
		var got []volume.ID
		for after := ""; ; {
			page := p.List(after, limit)
			if len(page) == 0 {
				break
			}
			if len(page) > limit {
				t.Fatalf("a page of %d has %d", limit, len(page))
			}
			for _, v := range page {
				got = append(got, v.ID)
			}
			after = page[len(page)-1].ID.Dir()
		}
		if !slices.Equal(got, want) {
			t.Errorf("in pages of %d: %v, want %v", limit, got, want)
		}
	}
	if page := p.List("", 0); len(page) != 0 {
		t.Errorf("a page of none has %v", page)
	}
}

// A list continues after a name, also if that volume no longer exists.
func TestPageAfterADeletedVolumeGoesOn(t *testing.T) {
	p := newPool(t)
	for _, name := range []string{"a", "b", "c"} {
		create(t, p, name, 1)
	}
	remove(t, p, p.List("a", 1)[0].ID)
	if page := p.List("b", 10); len(page) != 1 || page[0].Name.String() != "c" {
		t.Errorf("after b: %v, want c", page)
	}
}

func TestListingSeesEverySurvivorOnceWhileOthersComeAndGo(t *testing.T) {
	const survivors, rounds = 100, 20
	p := newPool(t)
	for i := range survivors {
		create(t, p, fmt.Sprintf("v-%03d", i), 1)
	}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for client := range 4 {
		wg.Go(func() { churn(t, p, client, stop) })
	}
	for range rounds {
		seen := map[string]int{}
		for after := ""; ; {
			page := p.List(after, 7)
			if len(page) == 0 {
				break
			}
			for _, v := range page {
				seen[v.Name.String()]++
			}
			after = page[len(page)-1].ID.Dir()
		}
		for i := range survivors {
			if name := fmt.Sprintf("v-%03d", i); seen[name] != 1 {
				t.Errorf("%s was listed %d times", name, seen[name])
			}
		}
		for name, n := range seen {
			if n != 1 {
				t.Errorf("%s was listed %d times", name, n)
			}
		}
	}
	close(stop)
	wg.Wait()
	waitPurged(t, p)
	wantLedger(t, p, survivors, 0)
}

// churn creates and deletes volumes between the others until stop is called.
func churn(t *testing.T, p *Pool, client int, stop <-chan struct{}) {
	t.Helper()
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		name, err := volume.ParseName(fmt.Sprintf("v-%03d-%d", i%100, client))
		if err != nil {
			t.Error(err)
			return
		}
		v, err := p.Create(t.Context(),
			volume.CreateRequest{Name: name, Size: volume.SizeRange{Required: 1}, Spec: directory})
		if err == nil {
			err = p.Delete(t.Context(), v.ID)
		}
		if err != nil {
			t.Error(err)
			return
		}
	}
}
