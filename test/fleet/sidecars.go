package main

import (
	"context"
	"slices"
)

// provisioning is what csi-provisioner is told in both deployments, as in the chart. Its pod owns
// nothing here.
var provisioning = []string{
	"--strict-topology",
	"--immediate-topology=false",
	"--extra-create-metadata",
	"--enable-capacity",
	"--capacity-ownerref-level=-1",
	"--capacity-poll-interval=5m",
	"--timeout=30s",
	"--retry-interval-max=1m",
	"--worker-threads=100",
	"--kube-api-qps=200",
	"--kube-api-burst=400",
}

// electing is how the sidecars of the central deployment elect their leaders, as in the chart.
var electing = []string{
	"--leader-election",
	"--leader-election-namespace=" + namespace,
	"--leader-election-lease-duration=30s",
	"--leader-election-renew-deadline=20s",
	"--leader-election-retry-period=10s",
}

// startProvisioner starts csi-provisioner beside a replica of the controller.
func (f *fleet) startProvisioner(_ context.Context, replica int) error {
	return f.startSidecar(csiProvisioner, f.replicas[replica].name, f.socket(replica),
		slices.Concat(provisioning, electing, []string{
			"--kube-api-capacity-qps=200", "--kube-api-capacity-burst=400",
		})...)
}

// nodeProvisioning is what csi-provisioner is told in node deployment, as in the chart.
var nodeProvisioning = append(slices.Clone(provisioning),
	"--node-deployment", "--node-deployment-base-delay=3s")

// reference is what csi-driver-host-path tells csi-provisioner on each of many nodes
// (deploy/kubernetes-distributed/hostpath/csi-hostpath-plugin.yaml). Its pod owns nothing here.
var reference = []string{
	"--enable-capacity",
	"--capacity-ownerref-level=-1",
	"--node-deployment=true",
	"--strict-topology=true",
	"--immediate-topology=false",
	"--worker-threads=5",
}

// startNodeProvisioner starts csi-provisioner beside the driver of a node.
func (f *fleet) startNodeProvisioner(node, socket string, args ...string) error {
	return f.startSidecar(csiProvisioner, node, socket, args...)
}

// startResizer starts csi-resizer beside a replica of the controller.
func (f *fleet) startResizer(_ context.Context, replica int) error {
	args := append(slices.Clone(electing),
		"--handle-volume-inuse-error=false",
		"--timeout=30s",
		"--workers=10",
		"--kube-api-qps=200",
		"--kube-api-burst=400",
	)
	return f.startSidecar("csi-resizer", f.replicas[replica].name, f.socket(replica), args...)
}

// csiProvisioner is the name of the program.
const csiProvisioner = "csi-provisioner"

// startSidecar starts one in the pod whose name is given. In node deployment that is the node's
// name as well.
func (f *fleet) startSidecar(name, pod, socket string, args ...string) error {
	kubeconfig, err := f.api.Kubeconfig(name, serviceAccounts)
	if err != nil {
		return err
	}
	args = append([]string{"--csi-address=" + socket, "--kubeconfig=" + kubeconfig, "--v=2"}, args...)
	p, err := newProgram(f.path("logs"), name+"-"+pod, f.api.Program(name), args...)
	if err != nil {
		return err
	}
	p.host = pod
	p.env = []string{"NAMESPACE=" + namespace, "POD_NAME=" + pod, "NODE_NAME=" + pod}
	f.sidecars = append(f.sidecars, p)
	return p.start()
}
