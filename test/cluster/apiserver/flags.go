package apiserver

import (
	"strconv"
	"strings"
)

// Issuer is the issuer of service account tokens, and their audience unless another is asked for.
const Issuer = "https://kubernetes.default.svc.cluster.local"

// auditPolicy logs each request once, when it is answered; a watch also when it begins.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  omitManagedFields: true
`

func (s *Server) etcdFlags(client, peer string) []string {
	return []string{
		"--data-dir=" + s.path("etcd"),
		"--listen-client-urls=" + client,
		"--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer,
		"--unsafe-no-fsync",
		"--quota-backend-bytes=" + strconv.Itoa(8<<30),
		"--log-level=warn",
	}
}

func (s *Server) apiServerFlags(etcd string, port int) []string {
	return []string{
		"--etcd-servers=" + etcd,
		"--bind-address=127.0.0.1",
		"--secure-port=" + strconv.Itoa(port),
		"--service-cluster-ip-range=10.96.0.0/16",
		// There is no service network, and an address of loopback is refused as an endpoint.
		"--endpoint-reconciler-type=none",
		"--authorization-mode=RBAC",
		"--client-ca-file=" + s.authority.Certificate("ca"),
		"--tls-cert-file=" + s.authority.Certificate("apiserver"),
		"--tls-private-key-file=" + s.authority.Key("apiserver"),
		"--service-account-issuer=" + Issuer,
		"--service-account-key-file=" + s.authority.Certificate("service-account"),
		"--service-account-signing-key-file=" + s.authority.Key("service-account"),
		"--audit-policy-file=" + s.path("audit.yaml"),
		"--audit-log-path=" + s.AuditLog(),
		"--audit-log-maxsize=" + strconv.Itoa(1<<14), // MiB: the log is never rotated
	}
}

func (s *Server) controllerManagerFlags(kubeconfig string) []string {
	return []string{
		"--kubeconfig=" + kubeconfig,
		"--controllers=" + strings.Join(s.options.Controllers, ","),
		"--leader-elect=false",
		"--secure-port=0",
		// As in package controlplane.
		"--kube-api-qps=200",
		"--kube-api-burst=400",
	}
}
