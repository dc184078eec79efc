package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	authentication "k8s.io/api/authentication/v1"
	core "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	storage "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	// namespace has everything of the driver, and the claims.
	namespace = "fleet"
	// nodeAccount is the service account of the nodes' pods.
	nodeAccount = "node"
	// audience is whom the nodes' tokens are for.
	audience = "csi-hostpath-controller"
	// serverName is the name in the controller's certificate.
	serverName = "csi-hostpath-controller"
	// caObject is the name of the Secret and of the ConfigMap that have the CA.
	caObject = "csi-hostpath-controller-ca"
	// caFile is where the nodes read the CA's certificates.
	caFile = "ca.crt"
	// serviceAccounts is the group of all service accounts; their requests are limited as in a real
	// cluster (API Priority and Fairness).
	serviceAccounts = "system:serviceaccounts"

	// The classes that the measurements use.
	classWait      = "wait"
	classImmediate = "immediate"
	classStatic    = "static"

	// claimBytes is the size of a claim.
	claimBytes = 1 << 20
)

// common makes what a cluster has once.
func (f *fleet) common(ctx context.Context) error {
	meta := metav1.ObjectMeta{Name: namespace}
	if _, err := f.client.CoreV1().Namespaces().Create(ctx, &core.Namespace{ObjectMeta: meta},
		metav1.CreateOptions{}); err != nil {
		return err
	}
	for _, name := range []string{nodeAccount, "default"} {
		account := &core.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if _, err := f.client.CoreV1().ServiceAccounts(namespace).Create(ctx, account,
			metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	if err := f.caObjects(ctx); err != nil {
		return err
	}
	binding := &rbac.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "fleet"},
		RoleRef:    rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbac.Subject{{APIGroup: rbac.GroupName, Kind: "Group", Name: serviceAccounts}},
	}
	if _, err := f.client.RbacV1().ClusterRoleBindings().Create(ctx, binding,
		metav1.CreateOptions{}); err != nil {
		return err
	}
	driver := &storage.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: driverName}}
	driver.Spec.AttachRequired, driver.Spec.StorageCapacity = new(bool), new(true)
	if _, err := f.client.StorageV1().CSIDrivers().Create(ctx, driver,
		metav1.CreateOptions{}); err != nil {
		return err
	}
	return f.classes(ctx)
}

// caObjects makes the empty objects that the chart renders.
func (f *fleet) caObjects(ctx context.Context) error {
	meta := metav1.ObjectMeta{Name: caObject}
	if _, err := f.client.CoreV1().Secrets(namespace).Create(ctx, &core.Secret{ObjectMeta: meta},
		metav1.CreateOptions{}); err != nil {
		return err
	}
	_, err := f.client.CoreV1().ConfigMaps(namespace).Create(ctx, &core.ConfigMap{ObjectMeta: meta},
		metav1.CreateOptions{})
	return err
}

func (f *fleet) classes(ctx context.Context) error {
	wait, immediate := storage.VolumeBindingWaitForFirstConsumer, storage.VolumeBindingImmediate
	for _, class := range []storage.StorageClass{
		{
			ObjectMeta:  metav1.ObjectMeta{Name: classWait},
			Provisioner: driverName, VolumeBindingMode: &wait,
		},
		{
			ObjectMeta:  metav1.ObjectMeta{Name: classImmediate},
			Provisioner: driverName, VolumeBindingMode: &immediate,
		},
		{
			ObjectMeta:  metav1.ObjectMeta{Name: classStatic},
			Provisioner: "kubernetes.io/no-provisioner", VolumeBindingMode: &wait,
		},
	} {
		if _, err := f.client.StorageV1().StorageClasses().Create(ctx, &class,
			metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	return nil
}

// nodeObjects makes what kubelet and the DaemonSet's controller make for a node: Node, CSINode, the
// driver's pod and its token.
func (f *fleet) nodeObjects(ctx context.Context, name string) error {
	node := &core.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
		core.LabelHostname:             name,
		volume.TopologyKey(driverName): volume.TopologyValue(name),
	}}}
	if _, err := f.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
		return err
	}
	csiNode := &storage.CSINode{ObjectMeta: metav1.ObjectMeta{Name: name}}
	csiNode.Spec.Drivers = []storage.CSINodeDriver{{
		Name: driverName, NodeID: name, TopologyKeys: []string{volume.TopologyKey(driverName)},
	}}
	if _, err := f.client.StorageV1().CSINodes().Create(ctx, csiNode,
		metav1.CreateOptions{}); err != nil {
		return err
	}
	return f.token(ctx, name)
}

// token makes the driver's pod on a node, and writes its token where the node reads it.
func (f *fleet) token(ctx context.Context, node string) error {
	pod := &core.Pod{ObjectMeta: metav1.ObjectMeta{Name: "driver-" + node}}
	pod.Spec.NodeName, pod.Spec.ServiceAccountName = node, nodeAccount
	pod.Spec.AutomountServiceAccountToken = new(bool)
	pod.Spec.Containers = []core.Container{{Name: "driver", Image: "driver"}}
	pod, err := f.client.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	request := &authentication.TokenRequest{Spec: authentication.TokenRequestSpec{
		Audiences: []string{audience},
		BoundObjectRef: &authentication.BoundObjectReference{
			Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID,
		},
	}}
	token, err := f.client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, nodeAccount, request,
		metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("token of node %s: %w", node, err)
	}
	return os.WriteFile(filepath.Join(f.path("files"), node), []byte(token.Status.Token), 0o600)
}

// newClaim describes a claim.
func newClaim(name, class string) *core.PersistentVolumeClaim {
	claim := &core.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name}}
	claim.Spec.StorageClassName = &class
	claim.Spec.AccessModes = []core.PersistentVolumeAccessMode{core.ReadWriteOnce}
	claim.Spec.Resources.Requests = core.ResourceList{
		core.ResourceStorage: *resource.NewQuantity(claimBytes, resource.BinarySI),
	}
	return claim
}
