package router

import (
	"fmt"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/link"
	"github.com/csi-hostpath/csi-hostpath/pkg/link/linkpb"
	"github.com/csi-hostpath/csi-hostpath/pkg/request"
)

// BenchmarkFleet has what a call costs the router itself with 5,000 nodes: the choice of a node,
// and the pools of a page.
func BenchmarkFleet(b *testing.B) {
	r := New(Options{DriverName: driverName})
	defer r.Close()
	for i := range 5000 {
		l := &link.Link{Node: fmt.Sprintf("node-%04d.example.com", i)}
		n := r.fleet.link(l)
		r.fleet.update(n, l, &linkpb.State{Pools: []*linkpb.Pool{{
			Name: "default", IsDefault: true, Uuid: fmt.Sprintf("%012x", i*7919), SizeBytes: 1 << 40,
			AvailableBytes: 1<<39 + int64(i%17)<<20, Volumes: 10,
		}}})
	}
	class, err := request.ParseCreate(createRequest("v"))
	if err != nil {
		b.Fatal(err)
	}
	w := wanted{where: topology{any: true}, name: "pvc-1", class: class.Class()}
	b.Run("pick", func(b *testing.B) {
		for b.Loop() {
			if c := r.pick(w); c.node == nil {
				b.Fatal("no node is picked")
			}
		}
	})
	b.Run("page", func(b *testing.B) {
		for b.Loop() {
			pools, err := r.poolsFor("")
			if err != nil || len(pools) != 5000 {
				b.Fatal(len(pools), err)
			}
		}
	})
}
