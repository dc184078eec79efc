package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/csi-hostpath/csi-hostpath/pkg/config"
	"github.com/csi-hostpath/csi-hostpath/pkg/kube"
	"github.com/csi-hostpath/csi-hostpath/pkg/link"
	"github.com/csi-hostpath/csi-hostpath/pkg/router"
)

// kubeOptions are the flags of what asks the API server.
type kubeOptions struct {
	kubeconfig string
	qps        float32
	burst      int
	namespace  string
	identity   string
	snapshots  bool
}

func (o *kubeOptions) register(fs *pflag.FlagSet) {
	fs.StringVar(&o.kubeconfig, "kubeconfig", "",
		"path of a file that says where the API server is (default: the pod's service account)")
	fs.Float32Var(&o.qps, "kube-api-qps", 50, "requests to the API server per second, on average")
	fs.IntVar(&o.burst, "kube-api-burst", 100, "requests to the API server at once")
	fs.StringVar(&o.namespace, "namespace", os.Getenv("NAMESPACE"),
		"namespace of the controller's own objects (default: $NAMESPACE)")
	fs.StringVar(&o.identity, "identity", "",
		"name of this process in the lease of the leader, which no other has (default: the host's name)")
	fs.BoolVar(&o.snapshots, "snapshots", false,
		"follow VolumeSnapshotContents as well: the cluster has the snapshot API")
}

func (o *kubeOptions) validate() error {
	var errs []error
	if o.qps <= 0 {
		errs = append(errs, fmt.Errorf("--kube-api-qps: %v must be more than 0", o.qps))
	}
	if o.burst < 1 {
		errs = append(errs, fmt.Errorf("--kube-api-burst: %d must be 1 or more", o.burst))
	}
	if o.namespace == "" {
		errs = append(errs, errors.New("--namespace: give the namespace of the controller's objects"))
	}
	return errors.Join(errs...)
}

// holder is the name of this process in the lease. Errors: the host has no name.
func (o *kubeOptions) holder() (string, error) {
	if o.identity != "" {
		return o.identity, nil
	}
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("name this process: give it an --identity: %w", err)
	}
	return name, nil
}

// client are the options of a client; what is for the audit log.
func (o *kubeOptions) client(what string) kube.Options {
	return kube.Options{
		Kubeconfig: o.kubeconfig,
		QPS:        o.qps,
		Burst:      o.burst,
		UserAgent:  "csi-hostpath-controller/" + what,
	}
}

// serveOptions are the flags of serve.
type serveOptions struct {
	kube               kubeOptions
	endpoint           string
	endpointGroup      uint32
	linkAddress        string
	linkRenewAfter     time.Duration
	driverName         string
	serverName         string
	nodeServiceAccount string
	tokenAudience      string
	caSecret           string
	caConfigMap        string
	tlsCert            string
	tlsKey             string
	placement          string
	metricsAddress     string
	statusAddress      string
	shutdownGrace      time.Duration
	nodeGoneAfter      time.Duration
}

// controllerName is what the controller is called where a name is needed that is the same for all
// installations: in its certificate, and as the audience of tokens for it.
const controllerName = "csi-hostpath-controller"

func (o *serveOptions) register(fs *pflag.FlagSet) {
	o.kube.register(fs)
	fs.StringVar(&o.endpoint, "endpoint", "unix:///run/csi-hostpath/csi.sock",
		"socket for the sidecars")
	fs.Uint32Var(&o.endpointGroup, "endpoint-group", 0,
		"group that may connect to the endpoint (default: only the user of the controller)")
	fs.StringVar(&o.linkAddress, "link-address", ":9820", "address for the links of nodes")
	fs.DurationVar(&o.linkRenewAfter, "link-renew-after", link.DefaultRenewAfter,
		"how often a node makes a new link: with the token and the certificate of then")
	fs.StringVar(&o.driverName, "driver-name", config.Default().DriverName, "the CSI driver's name")
	fs.StringVar(&o.serverName, "server-name", controllerName, "name in the controller's certificate")
	fs.StringVar(&o.nodeServiceAccount, "node-service-account", "",
		"NAMESPACE/NAME of the service account of the driver's pods on nodes")
	fs.StringVar(&o.tokenAudience, "token-audience", controllerName,
		"audience of the tokens that nodes show")
	fs.StringVar(&o.caSecret, "ca-secret", "", "Secret in which the controller keeps its own CA")
	fs.StringVar(&o.caConfigMap, "ca-configmap", "",
		"ConfigMap in which the controller publishes the certificates of its CA to nodes")
	fs.StringVar(&o.tlsCert, "tls-cert", "",
		"file with the controller's certificate, instead of a CA of its own")
	fs.StringVar(&o.tlsKey, "tls-key", "", "file with the key of that certificate")
	fs.StringVar(&o.placement, "placement", string(router.Spread),
		"where volumes go that may be on any node: spread (most room) or pack (least room)")
	fs.StringVar(&o.metricsAddress, "metrics-address", "",
		"address for /metrics, /healthz, /readyz and /statusz (default: none)")
	fs.StringVar(&o.statusAddress, "status-address", "",
		"loopback address and port for the status page and its API (default: none)")
	fs.DurationVar(&o.shutdownGrace, "shutdown-grace", config.Default().ShutdownGrace,
		"how long calls under way may take after SIGTERM")
	fs.DurationVar(&o.nodeGoneAfter, "node-gone-after", 0,
		"how long a Node object must be deleted before its volumes are given up (default: never)")
}

// validate names every fault.
func (o *serveOptions) validate() error {
	errs := []error{o.kube.validate()}
	if _, err := config.SocketPath(o.endpoint); err != nil {
		errs = append(errs, fmt.Errorf("--endpoint: %w", err))
	}
	for flag, address := range map[string]string{
		"link-address": o.linkAddress, "metrics-address": o.metricsAddress,
	} {
		if address == "" && flag == "metrics-address" {
			continue
		}
		if err := checkAddress(address); err != nil {
			errs = append(errs, fmt.Errorf("--%s: %q must be host:port or :port: %w", flag, address, err))
		}
	}
	if err := config.CheckLoopback(o.statusAddress); err != nil {
		errs = append(errs, fmt.Errorf("--status-address: %w", err))
	}
	if _, _, err := splitServiceAccount(o.nodeServiceAccount); err != nil {
		errs = append(errs, err)
	}
	for flag, value := range map[string]string{
		"driver-name": o.driverName, "server-name": o.serverName, "token-audience": o.tokenAudience,
	} {
		if value == "" {
			errs = append(errs, fmt.Errorf("--%s: give one", flag))
		}
	}
	if _, err := router.ParsePlacement(o.placement); err != nil {
		errs = append(errs, fmt.Errorf("--placement: %w", err))
	}
	if o.nodeGoneAfter < 0 {
		errs = append(errs,
			fmt.Errorf("--node-gone-after: %v must not be negative", o.nodeGoneAfter))
	}
	if o.linkRenewAfter < time.Second {
		errs = append(errs, fmt.Errorf("--link-renew-after: %v must be 1s or more", o.linkRenewAfter))
	}
	if o.shutdownGrace < 0 {
		errs = append(errs, fmt.Errorf("--shutdown-grace: %v must not be negative", o.shutdownGrace))
	}
	return errors.Join(append(errs, o.validateCertificates())...)
}

// ownAuthority says whether the controller has a CA of its own.
func (o *serveOptions) ownAuthority() bool { return o.caSecret != "" }

func (o *serveOptions) validateCertificates() error {
	own, files := o.caSecret != "" || o.caConfigMap != "", o.tlsCert != "" || o.tlsKey != ""
	switch {
	case own && files, !own && !files:
		return errors.New("give either --ca-secret and --ca-configmap, or --tls-cert and --tls-key")
	case own && (o.caSecret == "" || o.caConfigMap == ""):
		return errors.New("--ca-secret and --ca-configmap: give both")
	case files && (o.tlsCert == "" || o.tlsKey == ""):
		return errors.New("--tls-cert and --tls-key: give both")
	}
	return nil
}

func checkAddress(address string) error {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err
}

func splitServiceAccount(s string) (namespace, name string, err error) {
	namespace, name, _ = strings.Cut(s, "/")
	if namespace == "" || name == "" || strings.Contains(name, "/") {
		return "", "", fmt.Errorf("--node-service-account: %q must be NAMESPACE/NAME", s)
	}
	return namespace, name, nil
}
