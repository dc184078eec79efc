package volume

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
)

// TopologyPrefix stands before the driver's name in its topology key.
const TopologyPrefix = "topology."

// labelValue is the syntax of a label's value in Kubernetes, and so of a topology segment: at most
// 63 characters.
var labelValue = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$`)

// TopologyKey is the key of the one segment that the topologies of a driver have.
func TopologyKey(driverName string) string { return TopologyPrefix + driverName + "/node" }

// TopologyValue is the segment's value for a node. A node's name may be longer than a label's
// value; then it is replaced by a hash.
func TopologyValue(nodeName string) string {
	if labelValue.MatchString(nodeName) {
		return nodeName
	}
	sum := sha256.Sum256([]byte(nodeName))
	return "h-" + hex.EncodeToString(sum[:])[:40]
}

// Topology is the topology of a node's volumes.
func Topology(driverName, nodeName string) map[string]string {
	return map[string]string{TopologyKey(driverName): TopologyValue(nodeName)}
}
