package driver

import (
	"context"
	"errors"
	"net"

	"github.com/csi-hostpath/csi-hostpath/pkg/config"
	"github.com/csi-hostpath/csi-hostpath/pkg/serving"
)

// How many connections each listener has at most.
const (
	// maxKubeletConnections: kubelet connects for each call, and has one call under way for each
	// volume of each pod that starts or ends.
	maxKubeletConnections = 512
	// maxSidecarConnections: each sidecar has one connection.
	maxSidecarConnections = 16
	// maxRegistrationConnections: kubelet has one, and makes two calls on it.
	maxRegistrationConnections = 16
)

// sockets are the listeners for CSI.
type sockets struct {
	kubelet  net.Listener
	sidecars net.Listener // nil when none is configured
}

// openSockets makes the sockets for CSI. Sidecars keep the connections that they have, so a flood
// of theirs cannot break the connection of another sidecar; it can keep one out that starts
// meanwhile.
func openSockets(ctx context.Context, cfg config.Config) (s sockets, err error) {
	kubelet, err := serving.Listen(cfg.Endpoint) //nolint:contextcheck // it waits for nothing
	if err != nil {
		return sockets{}, err
	}
	s.kubelet = serving.BoundClosingOldest(ctx, kubelet, "kubelet", maxKubeletConnections)
	if cfg.SidecarEndpoint == "" {
		return s, nil
	}
	//nolint:contextcheck // it waits for nothing
	sidecars, err := serving.ListenForGroup(cfg.SidecarEndpoint, cfg.SidecarGroup)
	if err != nil {
		return sockets{}, errors.Join(err, kubelet.Close())
	}
	s.sidecars = serving.BoundClosingNew(ctx, sidecars, "sidecars", maxSidecarConnections)
	return s, nil
}
