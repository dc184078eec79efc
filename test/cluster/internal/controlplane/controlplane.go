// Package controlplane describes the machine that etcd, kube-apiserver and the
// controllers run on.
package controlplane

import (
	"fmt"
	"net"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/gates"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/machine"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/network"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/pki"
)

// Name is the machine's name.
const Name = "control-plane"

// APIServer is where the API server is reached inside the cluster.
var APIServer = net.JoinHostPort(network.APIServerIP.String(), "443")

const (
	etcdURL               = "http://127.0.0.1:2379"
	serviceAccountIssuer  = "https://kubernetes.default.svc." + network.Domain
	controllerManagerUser = "system:kube-controller-manager"
	schedulerUser         = "system:kube-scheduler"
	proxyUser             = "system:kube-proxy"
)

// IssueCertificates makes the certificates of the control plane, and "admin" and
// "kube-proxy", into the authority's folder, with the kubeconfigs that use them.
func IssueCertificates(authority *pki.Authority) error {
	subjects := map[string]pki.Subject{
		"admin":              {CommonName: "admin", Organization: "system:masters"},
		"apiserver-kubelet":  {CommonName: "kube-apiserver", Organization: "system:masters"},
		"service-account":    {CommonName: "service-account"},
		"controller-manager": {CommonName: controllerManagerUser},
		"scheduler":          {CommonName: schedulerUser},
		"kube-proxy":         {CommonName: proxyUser},
		"apiserver": {
			CommonName: "kube-apiserver",
			Names: []string{
				"localhost",
				"kubernetes",
				"kubernetes.default",
				"kubernetes.default.svc",
				"kubernetes.default.svc." + network.Domain,
			},
			IPs: []net.IP{network.APIServerIP, network.ControlPlaneIP, net.IPv4(127, 0, 0, 1)},
		},
	}
	for name, subject := range subjects {
		if err := authority.Issue(name, subject); err != nil {
			return err
		}
	}
	for _, name := range []string{"admin", "controller-manager", "scheduler", "kube-proxy"} {
		if err := authority.Kubeconfig(
			authority.KubeconfigPath(name),
			"https://"+APIServer,
			name,
		); err != nil {
			return err
		}
	}
	return nil
}

// Spec describes the machine. The snapshot controller and the DNS server run here,
// because they are part of a cluster and not of a driver.
func Spec(layout machine.Layout, programs, cgroup string, features gates.Gates) machine.Spec {
	return machine.Spec{
		Hostname: Name,
		CGroup:   cgroup,
		Binds:    layout.Binds(programs),
		Tmpfs:    []string{"/run"},
		Forward:  APIServer,
		Units: []machine.Unit{
			unit("etcd", etcdFlags()...),
			unit("kube-apiserver", append(apiServerFlags(), features.Flags()...)...),
			unit("kube-controller-manager", append(controllerManagerFlags(), features.Flags()...)...),
			unit("kube-scheduler", append(schedulerFlags(), features.Flags()...)...),
			unit("snapshot-controller", snapshotControllerFlags()...),
			unit("coredns", dnsFlags()...),
		},
	}
}

func unit(name string, flags ...string) machine.Unit {
	return machine.Unit{
		Name: name,
		Args: append([]string{machine.Programs + "/" + name}, flags...),
		Log:  machine.Logs + "/" + name + ".log",
	}
}

func etcdFlags() []string {
	return []string{
		"--data-dir=/var/lib/etcd",
		"--listen-client-urls=" + etcdURL,
		"--advertise-client-urls=" + etcdURL,
		"--listen-peer-urls=http://127.0.0.1:2380",
		// A test cluster need not survive a power cut of its host.
		"--unsafe-no-fsync",
		"--log-level=warn",
	}
}

func apiServerFlags() []string {
	return []string{
		"--etcd-servers=" + etcdURL,
		"--bind-address=0.0.0.0",
		"--secure-port=443",
		"--advertise-address=" + network.ControlPlaneIP.String(),
		"--service-cluster-ip-range=" + network.ServiceRange,
		"--allow-privileged",
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--client-ca-file=" + certificate("ca"),
		"--tls-cert-file=" + certificate("apiserver"),
		"--tls-private-key-file=" + key("apiserver"),
		"--kubelet-certificate-authority=" + certificate("ca"),
		"--kubelet-client-certificate=" + certificate("apiserver-kubelet"),
		"--kubelet-client-key=" + key("apiserver-kubelet"),
		// There is no DNS for node names here.
		"--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=" + serviceAccountIssuer,
		"--service-account-key-file=" + certificate("service-account"),
		"--service-account-signing-key-file=" + key("service-account"),
	}
}

func controllerManagerFlags() []string {
	return append(kubeconfigFlags("controller-manager"),
		"--use-service-account-credentials",
		"--service-account-private-key-file="+key("service-account"),
		"--root-ca-file="+certificate("ca"),
		"--cluster-signing-cert-file="+certificate("ca"),
		"--cluster-signing-key-file="+key("ca"),
		"--cluster-cidr="+network.PodRange,
		// Its defaults, 20 and 30, hold up whatever has a claim: it writes three times for each.
		"--kube-api-qps=200",
		"--kube-api-burst=400",
	)
}

func schedulerFlags() []string { return kubeconfigFlags("scheduler") }

func kubeconfigFlags(name string) []string {
	path := kubeconfig(name)
	return []string{
		"--kubeconfig=" + path,
		"--authentication-kubeconfig=" + path,
		"--authorization-kubeconfig=" + path,
		"--bind-address=127.0.0.1",
		"--leader-elect=false",
	}
}

func snapshotControllerFlags() []string {
	return []string{
		"--kubeconfig=" + kubeconfig("admin"),
		"--enable-distributed-snapshotting",
		"--leader-election=false",
		"--kube-api-qps=50",
		"--kube-api-burst=100",
	}
}

func certificate(name string) string { return fmt.Sprintf("%s/%s.crt", machine.PKI, name) }
func key(name string) string         { return fmt.Sprintf("%s/%s.key", machine.PKI, name) }
func kubeconfig(name string) string  { return fmt.Sprintf("%s/%s.kubeconfig", machine.PKI, name) }
