package link

import (
	"context"
	"fmt"

	"github.com/csi-hostpath/csi-hostpath/pkg/link/linkpb"
)

// protocol is what both sides agree on in the TLS handshake (ALPN), so that neither takes another
// service for the link.
const protocol = "csi-hostpath-link"

// The versions of the link that this code speaks.
const (
	minVersion = 1
	maxVersion = 1
)

// versions are those of the link that one side speaks, both included. Tests have others.
type versions struct{ lowest, highest uint32 }

// refusal is why a node gets no link.
type refusal struct {
	reason string // the label of the metric
	text   string // for the log and the node
}

// Error implements error.
func (r *refusal) Error() string { return r.text }

// The reasons of refusals, as the metric has them.
const (
	reasonTLS      = "tls"
	reasonHello    = "hello"
	reasonVersion  = "version"
	reasonDriver   = "driver"
	reasonToken    = "token"
	reasonNodeName = "node_name"
	reasonCrowded  = "crowded"
	reasonLost     = "connection"
)

func refuse(reason, format string, args ...any) error {
	return &refusal{reason, fmt.Sprintf(format, args...)}
}

// common is the highest version that both sides speak.
func (v versions) common(hello *linkpb.Hello) (uint32, error) {
	version := min(hello.GetMaxVersion(), v.highest)
	if version < max(hello.GetMinVersion(), v.lowest) {
		return 0, refuse(reasonVersion,
			"no common version of the link: the node (driver %s) speaks %d to %d, the controller %d to %d: "+
				"update the older of the two", hello.GetDriverVersion(), hello.GetMinVersion(),
			hello.GetMaxVersion(), v.lowest, v.highest)
	}
	return version, nil
}

// check finds out whether the node is what it says. It returns the node's name and the version of
// the link. The token comes last, because its check costs a request to the API server.
func (s *server) check(
	ctx context.Context, hello *linkpb.Hello,
) (node string, version uint32, err error) {
	version, err = s.versions.common(hello)
	if err != nil {
		return "", 0, err
	}
	if hello.GetDriverName() != s.opts.DriverName {
		return "", 0, refuse(reasonDriver, "the node runs the driver %q, this is the controller of %q",
			hello.GetDriverName(), s.opts.DriverName)
	}
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	node, err = s.opts.Authenticator.NodeOf(ctx, hello.GetToken())
	if err != nil {
		return "", 0, refuse(reasonToken, "the node's token: %v", err)
	}
	if hello.GetNodeName() != node {
		return "", 0, refuse(reasonNodeName, "the token is of node %q, but the driver says %q", node,
			hello.GetNodeName())
	}
	return node, version, nil
}
