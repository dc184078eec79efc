// Package apiserver runs the API of Kubernetes without nodes on loopback: etcd, kube-apiserver and
// some controllers of kube-controller-manager. For tests and benchmarks of what uses the API.
package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/cluster"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/component"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/pki"
	"github.com/csi-hostpath/csi-hostpath/test/process"
)

const (
	// readyTimeout is how long a program may take to be ready.
	readyTimeout = 2 * time.Minute
	// stopGrace is how long a program may take to end. None has anything to keep.
	stopGrace = 10 * time.Second
	// adminGroup may do everything, and no limit holds for it.
	adminGroup = "system:masters"
)

// Options say what to run.
type Options struct {
	// Dir holds everything that the programs write. It exists; the caller removes it.
	Dir string
	// Controllers are those of kube-controller-manager that run, by their names. None: it is not
	// started.
	Controllers []string
	// Progress is told of what is built. Default: nobody is.
	Progress func(format string, args ...any)
}

// Server is an API server that runs.
type Server struct {
	options   Options
	programs  map[string]string // paths by names
	authority *pki.Authority
	url       string
	running   []*process.Program
	logs      []*os.File
}

// components are those of package component that are needed: with the sidecars, for the caller.
var components = []string{"etcd", "csi-provisioner", "csi-resizer", "csi-snapshotter", "kubernetes"}

// Start builds what the cache of test/cluster lacks, and returns when the API server is ready. The
// caller closes the server. After an error nothing runs.
func Start(ctx context.Context, options Options) (*Server, error) {
	if options.Progress == nil {
		options.Progress = func(string, ...any) {}
	}
	s := &Server{options: options, programs: map[string]string{}}
	if err := s.build(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start an API server: %w", err), s.Close())
	}
	return s, nil
}

// IsBuilt says whether the cache has all programs, so that Start takes seconds.
func IsBuilt(ctx context.Context) (bool, error) {
	builder, err := newBuilder(ctx, nil)
	if err != nil {
		return false, err
	}
	for _, c := range needed() {
		cached, err := builder.IsCached(ctx, c)
		if err != nil || !cached {
			return false, err
		}
	}
	return true, nil
}

func needed() []component.Component {
	all := component.All(cluster.DefaultedKubernetes(""))
	return slices.DeleteFunc(all, func(c component.Component) bool {
		return !slices.Contains(components, c.Name)
	})
}

func newBuilder(
	ctx context.Context, progress func(string, ...any),
) (component.Builder, error) {
	root, err := component.ModuleRoot(ctx)
	if err != nil {
		return component.Builder{}, err
	}
	cache, err := cluster.CacheFolder("")
	source := filepath.Join(root, "test", "cluster", "components")
	return component.Builder{Source: source, Cache: cache, Progress: progress}, err
}

func (s *Server) build(ctx context.Context) error {
	builder, err := newBuilder(ctx, s.options.Progress)
	if err != nil {
		return err
	}
	for _, c := range needed() {
		built, err := builder.Build(ctx, c)
		if err != nil {
			return err
		}
		for _, program := range c.Programs {
			s.programs[program.Name] = built.Program(program.Name)
		}
	}
	return nil
}

func (s *Server) start(ctx context.Context) (err error) {
	if s.authority, err = pki.NewAuthority(s.path("pki")); err != nil {
		return err
	}
	if err := s.issue(); err != nil {
		return err
	}
	ports, err := freePorts(3)
	if err != nil {
		return err
	}
	s.url = "https://" + loopback(ports[2])
	etcd := "http://" + loopback(ports[0])
	if _, err := s.run("etcd", s.etcdFlags(etcd, "http://"+loopback(ports[1]))...); err != nil {
		return err
	}
	if err := os.WriteFile(s.path("audit.yaml"), []byte(auditPolicy), 0o600); err != nil {
		return err
	}
	api, err := s.run("kube-apiserver", s.apiServerFlags(etcd, ports[2])...)
	if err != nil {
		return err
	}
	if err := s.waitReady(ctx, api); err != nil {
		return err
	}
	return s.startControllers()
}

func (s *Server) issue() error {
	return errors.Join(
		s.authority.Issue("service-account", pki.Subject{CommonName: "service-account"}),
		s.authority.Issue("apiserver", pki.Subject{
			CommonName: "kube-apiserver", Names: []string{"localhost"},
			IPs: []net.IP{net.IPv4(127, 0, 0, 1)},
		}),
	)
}

func (s *Server) waitReady(ctx context.Context, api *process.Program) error {
	client, err := s.Client("admin", adminGroup)
	if err != nil {
		return err
	}
	return api.Poll(ctx, func(ctx context.Context) error {
		return client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
}

func (s *Server) startControllers() error {
	if len(s.options.Controllers) == 0 {
		return nil
	}
	config, err := s.Kubeconfig("kube-controller-manager", adminGroup)
	if err != nil {
		return err
	}
	_, err = s.run("kube-controller-manager", s.controllerManagerFlags(config)...)
	return err
}

func (s *Server) path(name string) string { return filepath.Join(s.options.Dir, name) }

// run starts a program. Close ends it.
func (s *Server) run(name string, flags ...string) (*process.Program, error) {
	log, err := os.Create(s.path(name + ".log"))
	if err != nil {
		return nil, err
	}
	s.logs = append(s.logs, log)
	p, err := process.StartProgram(process.ProgramOptions{
		Binary: s.Program(name), Args: flags, Log: log,
	})
	if err == nil {
		s.running = append(s.running, p)
	}
	return p, err
}

// Program is the path of a program: Kubernetes' own, csi-provisioner, csi-resizer, csi-snapshotter,
// snapshot-controller.
func (s *Server) Program(name string) string { return s.programs[name] }

// Kubeconfig writes a configuration file for a user, and returns its path. In the group
// system:masters the user may do everything; in others, what RBAC says.
func (s *Server) Kubeconfig(user, group string) (string, error) {
	err := s.authority.Issue(user, pki.Subject{CommonName: user, Organization: group})
	if err != nil {
		return "", err
	}
	path := s.authority.KubeconfigPath(user)
	return path, s.authority.Kubeconfig(path, s.url, user)
}

// Config is the configuration of a client that is a user of a group. It sends as many requests as
// it is asked for.
func (s *Server) Config(user, group string) (*rest.Config, error) {
	path, err := s.Kubeconfig(user, group)
	if err != nil {
		return nil, err
	}
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return nil, err
	}
	config.QPS, config.UserAgent = -1, user
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	return config, nil
}

// Client is a client with that configuration.
func (s *Server) Client(user, group string) (*kubernetes.Clientset, error) {
	config, err := s.Config(user, group)
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(config)
}

// AuditLog is the path of the log of all requests: one JSON object of kind audit.k8s.io/v1 Event a
// line, without what was sent and answered.
func (s *Server) AuditLog() string { return s.path("audit.log") }

// Close ends all programs.
func (s *Server) Close() error {
	var errs []error
	for _, p := range slices.Backward(s.running) {
		errs = append(errs, p.Stop(stopGrace))
	}
	for _, log := range s.logs {
		errs = append(errs, log.Close())
	}
	return errors.Join(errs...)
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// freePorts are ports that nobody listened on a moment ago: the programs cannot take a listener
// over.
func freePorts(count int) (ports []int, err error) {
	var listeners []net.Listener // all at once, or a port could come twice
	defer func() {
		for _, l := range listeners {
			_ = l.Close()
		}
	}()
	for range count {
		l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			return nil, err
		}
		listeners = append(listeners, l)
		address, err := netip.ParseAddrPort(l.Addr().String())
		if err != nil {
			return nil, err
		}
		ports = append(ports, int(address.Port()))
	}
	return ports, nil
}
