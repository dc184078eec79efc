package cluster

import (
	"context"
	"fmt"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/network"
)

// dnsService leads pods to the DNS server, which is a process of the control plane and no pod.
const dnsService = `
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system, labels: {k8s-app: kube-dns}}
spec:
  clusterIP: %[1]s
  ports:
    - {name: dns, port: 53, protocol: UDP}
    - {name: dns-tcp, port: 53, protocol: TCP}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: kube-dns
  namespace: kube-system
  labels: {kubernetes.io/service-name: kube-dns}
addressType: IPv4
endpoints:
  - {addresses: [%[2]s], conditions: {ready: true}}
ports:
  - {name: dns, port: 53, protocol: UDP}
  - {name: dns-tcp, port: 53, protocol: TCP}
`

func (c *Cluster) applyDNS(ctx context.Context) error {
	return c.Apply(ctx, fmt.Sprintf(dnsService, network.DNSIP, network.ControlPlaneIP))
}
