package driver

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"

	"github.com/csi-hostpath/csi-hostpath/pkg/config"
)

// labelValue is the syntax of a label's value in Kubernetes, and so of a topology segment: at most
// 63 characters.
var labelValue = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$`)

// topologyOf is the topology of a node's volumes. A node's name may be longer than a label's value;
// then it is replaced by a hash.
func topologyOf(driverName, nodeName string) map[string]string {
	value := nodeName
	if !labelValue.MatchString(value) {
		sum := sha256.Sum256([]byte(nodeName))
		value = "h-" + hex.EncodeToString(sum[:])[:40]
	}
	return map[string]string{config.TopologyPrefix + driverName + "/node": value}
}
