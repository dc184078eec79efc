package loopdev_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/image/loopdev"
)

func TestWritebackToADeviceIsNotThrottledHoweverOftenItIsAskedFor(t *testing.T) {
	d := attach(t, newImage(t, t.TempDir(), mib), loopdev.Options{})
	defer d.Close()
	path := fmt.Sprintf("/sys/block/loop%d/queue/wbt_lat_usec", d.Number())
	if err := os.WriteFile(path, []byte("2000"), 0); err != nil { // as a device that is new
		t.Fatal(err)
	}
	for range 2 {
		if err := d.UnthrottleWriteback(); err != nil {
			t.Fatal(err)
		}
		if latency, err := os.ReadFile(path); strings.TrimSpace(string(latency)) != "0" || err != nil {
			t.Errorf("the throttle is at %s µs (%v)", latency, err)
		}
	}
}
