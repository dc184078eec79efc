package volume

import (
	"regexp"
	"strings"
	"testing"
)

// A topology segment is the value of a Kubernetes label: at most 63 of these characters.
var segment = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$`)

func TestEveryNodeNameHasASegmentOfItsOwn(t *testing.T) {
	names := []string{
		"node-1",
		"node-2",
		"ip-10-0-0-1.eu-west-1.compute.internal",
		strings.Repeat("x", 63),
		strings.Repeat("x", 64),
		strings.Repeat("x", 65),
		strings.Repeat("x", 253),
		"-node",
		"node-",
		"node name",
		"größe",
	}
	seen := map[string]string{}
	for _, name := range names {
		segments := Topology("hostpath.csi.local", name)
		value := segments["topology.hostpath.csi.local/node"]
		if len(segments) != 1 || !segment.MatchString(value) {
			t.Errorf("node %q has %v", name, segments)
		}
		if other, taken := seen[value]; taken {
			t.Errorf("nodes %q and %q share segment %q", name, other, value)
		}
		seen[value] = name
	}
	if seen["node-1"] != "node-1" {
		t.Errorf("a name that fits is not kept: %v", seen)
	}
}
