// Package identity is what the driver says of itself: the CSI Identity service, and the
// capabilities of the services Controller and GroupController.
package identity

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/csi-hostpath/csi-hostpath/pkg/version"
)

// Server implements csi.IdentityServer.
type Server struct {
	csi.UnimplementedIdentityServer

	// Name is the driver's.
	Name string
	// NotReady says why the caller must wait; nil means ready.
	NotReady func() error
	// More are services that only some servers have.
	More []csi.PluginCapability_Service_Type
}

var _ csi.IdentityServer = (*Server)(nil)

// GetPluginInfo has the driver's name and version.
func (s *Server) GetPluginInfo(
	context.Context, *csi.GetPluginInfoRequest,
) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: s.Name, VendorVersion: version.Version}, nil
}

// GetPluginCapabilities advertises what is built, nothing more.
func (s *Server) GetPluginCapabilities(
	context.Context, *csi.GetPluginCapabilitiesRequest,
) (*csi.GetPluginCapabilitiesResponse, error) {
	resp := &csi.GetPluginCapabilitiesResponse{}
	types := append([]csi.PluginCapability_Service_Type{
		csi.PluginCapability_Service_CONTROLLER_SERVICE,
		csi.PluginCapability_Service_VOLUME_ACCESSIBILITY_CONSTRAINTS,
		csi.PluginCapability_Service_SNAPSHOT_ACCESSIBILITY_CONSTRAINTS,
	}, s.More...)
	for _, t := range types {
		resp.Capabilities = append(resp.Capabilities, &csi.PluginCapability{
			Type: &csi.PluginCapability_Service_{Service: &csi.PluginCapability_Service{Type: t}},
		})
	}
	resp.Capabilities = append(
		resp.Capabilities,
		&csi.PluginCapability{Type: &csi.PluginCapability_VolumeExpansion_{
			VolumeExpansion: &csi.PluginCapability_VolumeExpansion{
				Type: csi.PluginCapability_VolumeExpansion_ONLINE,
			},
		}},
	)
	return resp, nil
}

// Probe never fails: after an error a liveness probe would restart the driver, which mounts no
// disk.
func (s *Server) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{Ready: wrapperspb.Bool(s.NotReady() == nil)}, nil
}
