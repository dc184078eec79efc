package driver

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"k8s.io/klog/v2"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/rpc"
)

// csiVersions are what kubelet wants to hear from a plugin that speaks CSI 1.x (pkg/volume/csi,
// versionParse: it takes the highest that it supports, and 1.0.0 stands for all of them).
var csiVersions = []string{"1.0.0"}

// registration implements registerapi.RegistrationServer: kubelet finds its socket in
// plugins_registry and asks what the plugin is.
type registration struct {
	registerapi.UnimplementedRegistrationServer
	info    *registerapi.PluginInfo
	refused chan error
}

// registrationEndpoint is where kubelet looks.
func registrationEndpoint(cfg Config) string {
	return "unix://" + filepath.Join(cfg.KubeletDir, "plugins_registry", cfg.DriverName+"-reg.sock")
}

// serveRegistration offers the driver to kubelet until the context ends. The CSI socket exists
// already. An error means that kubelet refused: the process ends, so that its restart tries again
// and the refusal is seen.
func serveRegistration(ctx context.Context, cfg Config) error {
	if !cfg.RegisterWithKubelet {
		return nil
	}
	csiSocket, err := socketPath(cfg.Endpoint)
	if err != nil {
		return err
	}
	if shared, err := mount.IsShared(cfg.KubeletDir); err == nil && !shared {
		klog.FromContext(
			ctx,
		).Error(
			nil,
			"Kubelet's directory is not a shared mount here: volumes would be mounted where no pod sees them. "+
				"A container needs Bidirectional mount propagation",
			"kubeletDir",
			cfg.KubeletDir,
		)
	}
	listener, err := Listen(registrationEndpoint(cfg)) //nolint:contextcheck // it waits for nothing
	if err != nil {
		return fmt.Errorf("register with kubelet: %w", err)
	}
	r := &registration{
		info: &registerapi.PluginInfo{
			Type:              registerapi.CSIPlugin,
			Name:              cfg.DriverName,
			Endpoint:          csiSocket,
			SupportedVersions: csiVersions,
		},
		refused: make(chan error, 1),
	}
	listener = boundListener(ctx, listener, "registration", maxRegistrationConnections,
		oldestOfTheGreediest)
	server := rpc.NewServer(nil)
	registerapi.RegisterRegistrationServer(server, r)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case <-ctx.Done():
	case err = <-r.refused:
	case err = <-served:
		return fmt.Errorf("serve the registration socket: %w", err)
	}
	server.GracefulStop() // kubelet gets its answer; closes the listener, which removes the socket
	return errors.Join(err, <-served)
}

// GetInfo is asked within one second of the socket's appearance.
func (r *registration) GetInfo(
	context.Context, *registerapi.InfoRequest,
) (*registerapi.PluginInfo, error) {
	return r.info, nil
}

// NotifyRegistrationStatus says what kubelet thinks of it.
func (r *registration) NotifyRegistrationStatus(
	ctx context.Context, status *registerapi.RegistrationStatus,
) (*registerapi.RegistrationStatusResponse, error) {
	if status.GetPluginRegistered() {
		klog.FromContext(
			ctx,
		).Info("Registered with kubelet", "driver", r.info.GetName(), "endpoint", r.info.GetEndpoint())
		return &registerapi.RegistrationStatusResponse{}, nil
	}
	select {
	case r.refused <- fmt.Errorf("kubelet refused to register the driver: %s", status.GetError()):
	default: // A refusal is already known.
	}
	return &registerapi.RegistrationStatusResponse{}, nil
}
