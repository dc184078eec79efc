package controllerserver

import (
	"fmt"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/go-logr/logr/funcr"
	"k8s.io/klog/v2"
)

// The scheduler says of a full pool and of a mistyped one that there is not enough free storage.
func TestPoolThatNoNodeHasIsLoggedOnce(t *testing.T) {
	c := newController(t, "p")
	var lines []string
	log := funcr.New(func(_, line string) { lines = append(lines, line) }, funcr.Options{})
	ctx := klog.NewContext(t.Context(), log)
	for range 3 {
		for i := range maxReported + 10 {
			resp, err := c.GetCapacity(ctx, &csi.GetCapacityRequest{
				Parameters: map[string]string{"pool": fmt.Sprintf("typo-%d", i)},
			})
			if err != nil || resp.GetAvailableCapacity() != 0 {
				t.Fatalf("got %v, %v, want no capacity", resp, err)
			}
		}
	}
	if _, err := c.GetCapacity(ctx, &csi.GetCapacityRequest{}); err != nil { // the default pool
		t.Fatal(err)
	}
	if len(lines) != maxReported {
		t.Fatalf("%d lines, want %d", len(lines), maxReported)
	}
	for _, want := range []string{"typo-0", "names a pool that is not configured", "no pool typo-0"} {
		if !strings.Contains(lines[0], want) {
			t.Errorf("the log says %s, want %q in it", lines[0], want)
		}
	}
}
