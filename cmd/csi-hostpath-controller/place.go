package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/config"
	"github.com/csi-hostpath/csi-hostpath/pkg/lifecycle"
	"github.com/csi-hostpath/csi-hostpath/pkg/serving"
	"github.com/csi-hostpath/csi-hostpath/pkg/version"
)

// placeOptions are the flags of place.
type placeOptions struct {
	kube           kubeOptions
	driverName     string
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
	fs.StringVar(&o.metricsAddress, "metrics-address", "",
		"address for /metrics, /healthz, /readyz and /statusz (default: none)")
}

func (o *placeOptions) validate() error {
	errs := []error{o.kube.validate()}
	if o.driverName == "" {
		errs = append(errs, errors.New("--driver-name: give one"))
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
	group.Go(func() error {
		return leader.follow(ctx, &o.kube, registry, lifecycle.Options{DriverName: o.driverName})
	})
	group.Go(func() error {
		// Who is not the leader waits, and that is as it should be.
		p := pages{ready: func() error { return nil }, status: leader.status, registry: registry}
		return serving.HTTP(ctx, o.metricsAddress, p.server())
	})
	return group.Wait()
}
