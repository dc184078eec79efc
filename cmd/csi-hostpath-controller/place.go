package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/config"
	"github.com/csi-hostpath/csi-hostpath/pkg/lifecycle"
	"github.com/csi-hostpath/csi-hostpath/pkg/rpc"
	"github.com/csi-hostpath/csi-hostpath/pkg/serving"
	"github.com/csi-hostpath/csi-hostpath/pkg/version"
)

// placeOptions are the flags of place.
type placeOptions struct {
	kube           kubeOptions
	driverName     string
	endpoint       string
	endpointGroup  uint32
	resizerOnly    bool
	metricsAddress string
}

func placeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "place",
		Short: "Place claims where their sources are, until SIGTERM or SIGINT: for a cluster whose " +
			"nodes have their own sidecars",
	}
	o := &placeOptions{}
	o.register(cmd.Flags())
	return running(cmd, o.validate, o.place)
}

func (o *placeOptions) register(fs *pflag.FlagSet) {
	o.kube.register(fs)
	fs.StringVar(&o.driverName, "driver-name", config.Default().DriverName, "the CSI driver's name")
	fs.StringVar(&o.endpoint, "endpoint", "", "socket for the resizer (default: none)")
	fs.Uint32Var(&o.endpointGroup, "endpoint-group", 0,
		"group that may connect to the endpoint (default: only the user of the controller)")
	fs.BoolVar(&o.resizerOnly, "resizer-only", false, "only answer the resizer; place nothing")
	fs.StringVar(&o.metricsAddress, "metrics-address", "",
		"address for /metrics, /healthz, /readyz and /statusz (default: none)")
}

func (o *placeOptions) validate() error {
	errs := []error{o.kube.validate()}
	if o.driverName == "" {
		errs = append(errs, errors.New("--driver-name: give one"))
	}
	if _, err := config.SocketPath(o.endpoint); o.endpoint != "" && err != nil {
		errs = append(errs, fmt.Errorf("--endpoint: %w", err))
	}
	if o.resizerOnly && o.endpoint == "" {
		errs = append(errs, errors.New("--resizer-only: give an --endpoint"))
	}
	if err := checkAddress(o.metricsAddress); o.metricsAddress != "" && err != nil {
		errs = append(errs,
			fmt.Errorf("--metrics-address: %q must be host:port or :port: %w", o.metricsAddress, err))
	}
	return errors.Join(errs...)
}

func (o *placeOptions) place(ctx context.Context) error {
	registry := serving.NewRegistry("csi_hostpath_controller_build_info")
	klog.FromContext(ctx).Info("Placing", "driver", o.driverName, "version", version.Version)
	leader := &leadership{}
	group, ctx := errgroup.WithContext(ctx)
	if !o.resizerOnly {
		group.Go(func() error {
			return leader.follow(ctx, &o.kube, registry, lifecycle.Options{DriverName: o.driverName})
		})
	}
	group.Go(func() error { return o.serveResizer(ctx, registry) })
	group.Go(func() error {
		// Who is not the leader waits, and that is as it should be.
		p := pages{ready: func() error { return nil }, status: leader.status, registry: registry}
		return serving.HTTP(ctx, o.metricsAddress, p.server())
	})
	return group.Wait()
}

// serveResizer answers the resizer until the context ends.
func (o *placeOptions) serveResizer(ctx context.Context, registry prometheus.Registerer) error {
	if o.endpoint == "" {
		return nil
	}
	listener, err := listenForSidecars(o.endpoint, o.endpointGroup) //nolint:contextcheck // no waiting
	if err != nil {
		return err
	}
	defer listener.Close()
	bounded := serving.BoundClosingNew(ctx, listener, "sidecars", maxSidecarConnections)
	server := newGrowthServer(o.driverName,
		rpc.Options{Logger: klog.FromContext(ctx), Registerer: registry})
	return serving.GRPC(ctx, server, bounded, config.Default().ShutdownGrace)
}
