package driver

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"k8s.io/klog/v2"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/csi-hostpath/csi-hostpath/pkg/config"
	"github.com/csi-hostpath/csi-hostpath/pkg/rpc"
	"github.com/csi-hostpath/csi-hostpath/pkg/serving"
)

// csiVersions are what kubelet expects from a plugin that speaks CSI 1.x (pkg/volume/csi,
// versionParse): kubelet takes the highest version that it supports, and 1.0.0 stands for all.
var csiVersions = []string{"1.0.0"}

var errRefused = errors.New("kubelet refused to register the driver")

// registration implements registerapi.RegistrationServer: kubelet finds its socket in
// plugins_registry and asks what the plugin is.
type registration struct {
	registerapi.UnimplementedRegistrationServer
	info *registerapi.PluginInfo
	// refuse ends the registration with kubelet's error.
	refuse context.CancelCauseFunc
}

// registrationEndpoint is where kubelet looks.
func registrationEndpoint(cfg config.Config) string {
	return "unix://" + filepath.Join(cfg.KubeletDir, "plugins_registry", cfg.DriverName+"-reg.sock")
}

// serveRegistration offers the driver to kubelet until the context ends. The CSI socket exists
// already. Errors: errRefused, which ends the process, so that the refusal is seen and the restart
// tries again.
func serveRegistration(ctx context.Context, cfg config.Config) error {
	if !cfg.RegisterWithKubelet {
		return nil
	}
	csiSocket, err := config.SocketPath(cfg.Endpoint)
	if err != nil {
		return err
	}
	//nolint:contextcheck // it waits for nothing
	listener, err := serving.Listen(registrationEndpoint(cfg))
	if err != nil {
		return fmt.Errorf("register with kubelet: %w", err)
	}
	listener = serving.BoundClosingOldest(ctx, listener, "registration", maxRegistrationConnections)
	ctx, refuse := context.WithCancelCause(ctx)
	defer refuse(nil)
	server := rpc.NewServer(nil)
	registerapi.RegisterRegistrationServer(server, &registration{
		info: &registerapi.PluginInfo{
			Type:              registerapi.CSIPlugin,
			Name:              cfg.DriverName,
			Endpoint:          csiSocket,
			SupportedVersions: csiVersions,
		},
		refuse: refuse,
	})
	err = serving.GRPC(ctx, server, listener, cfg.ShutdownGrace)
	if cause := context.Cause(ctx); errors.Is(cause, errRefused) {
		return cause
	}
	return err
}

// GetInfo answers within the second that kubelet gives a new socket.
func (r *registration) GetInfo(
	context.Context, *registerapi.InfoRequest,
) (*registerapi.PluginInfo, error) {
	return r.info, nil
}

// NotifyRegistrationStatus takes kubelet's decision.
func (r *registration) NotifyRegistrationStatus(
	ctx context.Context, status *registerapi.RegistrationStatus,
) (*registerapi.RegistrationStatusResponse, error) {
	if status.GetPluginRegistered() {
		klog.FromContext(ctx).Info("Registered with kubelet", "driver", r.info.GetName(),
			"endpoint", r.info.GetEndpoint())
	} else {
		r.refuse(fmt.Errorf("%w: %s", errRefused, status.GetError()))
	}
	return &registerapi.RegistrationStatusResponse{}, nil
}
