// Package link connects nodes with the controller: a node dials each replica, proves which node it
// is, and then serves the controller's calls on that connection. docs/design.md has the handshake.
package link

import (
	"context"
	"time"

	"google.golang.org/grpc"
)

// Link is a connection to a node that has proved its name.
type Link struct {
	// Node is the node's name in Kubernetes, from its token.
	Node string
	// DriverVersion is the version of the node's driver, and Version that of the link.
	DriverVersion string
	Version       uint32
	// Since is when the link was made.
	Since time.Time
	// Conn calls the services of the node: csi.v1.Controller and linkpb.Node. It ends with the link:
	// calls that the link's end cuts off, and later ones, are UNAVAILABLE.
	Conn grpc.ClientConnInterface
}

// Fleet is told of links, of one at a time. Its methods must not wait.
type Fleet interface {
	// Linked takes a new link. It replaces the node's link before it, if there is one, whose calls may
	// go on until they end.
	Linked(l *Link)
	// Unlinked says that a link has ended, and why. It may have been replaced before.
	Unlinked(l *Link, why error)
}

// Authenticator finds out which node a token belongs to. Errors say why it proves nothing; they are
// sent to the node.
type Authenticator interface {
	NodeOf(ctx context.Context, token string) (node string, err error)
}
