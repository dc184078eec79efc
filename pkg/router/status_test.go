package router

import "testing"

func TestPoolSaysWhetherItEnforcesSizesWhileItCanBeUsed(t *testing.T) {
	c := newCluster(t, Options{})
	n := c.addNode("node-a", "p")
	id := n.pools[0].ID()
	for _, enforces := range []bool{false, true} {
		state := n.realState()
		state.Pools[0].EnforcesSizes = enforces
		n.push(state)
		want := PoolDetails{Name: "p", Node: "node-a", EnforcesSizes: enforces}
		c.wait("the pool's details", func() bool {
			got, usable := c.Pool(id)
			return usable && got == want
		})
	}
	state := n.realState()
	state.Pools[0].NotReady = "disk_failed"
	n.push(state)
	c.wait("the pool cannot be used", func() bool { _, usable := c.Pool(id); return !usable })
	if _, usable := c.Pool("0123456789ab"); usable {
		t.Error("a pool that nobody has can be used")
	}
}
