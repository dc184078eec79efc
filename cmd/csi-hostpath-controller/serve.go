package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/kube"
	"github.com/csi-hostpath/csi-hostpath/pkg/lifecycle"
	"github.com/csi-hostpath/csi-hostpath/pkg/link"
	"github.com/csi-hostpath/csi-hostpath/pkg/link/certs"
	"github.com/csi-hostpath/csi-hostpath/pkg/router"
	"github.com/csi-hostpath/csi-hostpath/pkg/serving"
	"github.com/csi-hostpath/csi-hostpath/pkg/status"
	"github.com/csi-hostpath/csi-hostpath/pkg/version"
)

// maxSidecarConnections: each sidecar has one connection.
const maxSidecarConnections = 16

func serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the controller until SIGTERM or SIGINT; a second one ends it at once",
	}
	o := &serveOptions{}
	o.register(cmd.Flags())
	return running(cmd, o.validate, o.serve)
}

// certificates are the controller's own, or those of files.
type certificates interface {
	GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// Ready returns nil when there is a certificate.
	Ready() error
	// Until is how long the certificate is valid. Zero: there is none.
	Until() time.Time
}

// controller is what serve puts together.
type controller struct {
	options  *serveOptions
	client   kubernetes.Interface
	router   *router.Router
	nodes    *lifecycle.NodeObjects
	certs    certificates
	issuer   *certs.Issuer // nil: certs come from files
	leader   leadership
	links    link.ServerOptions
	registry *prometheus.Registry
	listener net.Listener // of the links
	sidecars net.Listener
}

// serve runs until the context ends. Then it takes no more calls, gives those under way
// shutdownGrace to finish, ends the links, and returns.
func (o *serveOptions) serve(ctx context.Context) error {
	c, err := o.newController(ctx)
	if err != nil {
		return err
	}
	defer c.router.Close()
	if err := c.listen(ctx); err != nil {
		return err
	}
	defer c.sidecars.Close()
	klog.FromContext(ctx).Info("Serving", "driver", o.driverName, "version", version.Version,
		"endpoint", o.endpoint, "links", c.listener.Addr().String())
	return c.run(ctx)
}

// reviewsPerSecond is how many tokens may be reviewed in a second: after a restart of the
// controller all nodes link again at once, and 5,000 nodes are to be linked within 30 s.
const reviewsPerSecond = 500

func (o *serveOptions) newController(ctx context.Context) (*controller, error) {
	client, err := kube.NewClient(o.kube.client("serve"))
	if err != nil {
		return nil, err
	}
	// Of its own, so that nodes that come all at once do not hold up the calls of sidecars.
	review := o.kube.client("link")
	review.QPS, review.Burst = max(review.QPS, reviewsPerSecond), max(review.Burst, reviewsPerSecond)
	reviews, err := kube.NewClient(review)
	if err != nil {
		return nil, err
	}
	nodes, err := lifecycle.WatchNodes(client, o.driverName)
	if err != nil {
		return nil, err
	}
	registry := serving.NewRegistry("csi_hostpath_controller_build_info")
	c := &controller{options: o, client: client, nodes: nodes, registry: registry}
	if err := c.certify(ctx, client); err != nil {
		return nil, err
	}
	placement, err := router.ParsePlacement(o.placement)
	if err != nil {
		return nil, err
	}
	logger := klog.FromContext(ctx)
	c.router = router.New(router.Options{
		DriverName: o.driverName,
		Namespace:  o.kube.namespace,
		Placement:  placement,
		Recorder:   recorder{kube.NewRecorder(client)},
		AwaitNodes: true,
		Logger:     logger,
		Registerer: c.registry,
	})
	namespace, account, err := splitServiceAccount(o.nodeServiceAccount)
	if err != nil {
		return nil, err
	}
	c.links = link.ServerOptions{
		GetCertificate: c.certs.GetCertificate,
		Authenticator:  kube.NewAuthenticator(reviews, o.tokenAudience, namespace, account),
		Fleet:          c.router,
		DriverName:     o.driverName,
		Version:        version.Version,
		RenewAfter:     o.linkRenewAfter,
		Logger:         logger,
		Registerer:     c.registry,
	}
	return c, nil
}

// recorder keeps in claims where the router makes their volumes.
type recorder struct{ claims *kube.Recorder }

// Record implements router.Recorder.
func (r recorder) Record(ctx context.Context, claim router.Claim, node string) (string, error) {
	return r.claims.Record(ctx, claim.Namespace, claim.Name, node)
}

func (c *controller) certify(ctx context.Context, client kubernetes.Interface) error {
	o := c.options
	if !o.ownAuthority() {
		files, err := certs.NewFiles(o.tlsCert, o.tlsKey, klog.FromContext(ctx))
		if err != nil {
			return fmt.Errorf("--tls-cert and --tls-key: %w", err)
		}
		c.certs = files
		c.registry.MustRegister(expiry("certificate", files.Until))
		return nil
	}
	c.issuer = certs.NewIssuer(certs.Options{
		Store:      kube.NewAuthority(client, o.kube.namespace, o.caSecret, o.caConfigMap),
		ServerName: o.serverName,
		Logger:     klog.FromContext(ctx),
	})
	c.certs = c.issuer
	c.registry.MustRegister(expiry("certificate", c.issuer.Until),
		expiry("ca", c.issuer.AuthorityUntil))
	return nil
}

// expiry is a metric of how long a certificate is valid.
func expiry(what string, until func() time.Time) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "csi_hostpath_controller_" + what + "_expiry_timestamp_seconds",
		Help: "When the " + what + " of this replica ends, in seconds since 1970; 0: there is none.",
	}, func() float64 {
		if t := until(); !t.IsZero() {
			return float64(t.Unix())
		}
		return 0
	})
}

// listen makes both listeners. Sidecars keep the connections that they have, as on a node.
func (c *controller) listen(ctx context.Context) (err error) {
	o := c.options
	sidecars, err := listenForSidecars(o.endpoint, o.endpointGroup) //nolint:contextcheck // no waiting
	if err != nil {
		return err
	}
	c.sidecars = serving.BoundClosingNew(ctx, sidecars, "sidecars", maxSidecarConnections)
	if c.listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", o.linkAddress); err != nil {
		return errors.Join(fmt.Errorf("--link-address: %w", err), c.sidecars.Close())
	}
	return nil
}

func listenForSidecars(endpoint string, group uint32) (net.Listener, error) {
	if group == 0 {
		return serving.Listen(endpoint)
	}
	return serving.ListenForGroup(endpoint, group)
}

// status is the text of /statusz.
func (c *controller) status() string {
	return c.leader.status() + describe(c.router.Nodes(), time.Now())
}

// run serves. The links end after the calls of the sidecars, which go through them.
func (c *controller) run(ctx context.Context) error {
	linking, endLinks := context.WithCancel(context.WithoutCancel(ctx))
	defer endLinks()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer endLinks()
		return serving.GRPC(ctx, c.router.NewServer(), c.sidecars, c.options.shutdownGrace)
	})
	group.Go(func() error { return link.Serve(linking, c.listener, c.links) })
	if c.issuer != nil {
		group.Go(func() error { c.issuer.Run(linking); return nil })
	}
	group.Go(func() error {
		return c.nodes.Run(ctx, func(o lifecycle.NodeObject) { c.router.SetNode(router.NodeObject(o)) },
			c.router.NodesRead)
	})
	group.Go(func() error {
		c.options.forgetNodeCapacities(ctx, c.client, c.router.AllLinked)
		return nil
	})
	group.Go(func() error {
		return c.leader.follow(ctx, &c.options.kube, c.registry, lifecycle.Options{
			DriverName:    c.options.driverName,
			Nodes:         linkedNodes{c.router},
			NodeObjects:   c.nodes,
			NodeGoneAfter: c.options.nodeGoneAfter,
		})
	})
	group.Go(func() error {
		p := pages{
			ready: c.certs.Ready, status: c.status, volumes: c.leader.volumes, registry: c.registry,
		}
		return serving.HTTP(ctx, c.options.metricsAddress, p.server())
	})
	group.Go(func() error {
		told := serving.NewHTTPServer(status.NewHandler(newFleetStatus(c)))
		return serving.Status(ctx, c.options.statusAddress, told)
	})
	err := group.Wait()
	if errors.Is(err, serving.ErrCutOff) { // as safe as a crash: the callers call again
		klog.FromContext(ctx).Error(err, "Stopping all the same")
		return nil
	}
	return err
}
