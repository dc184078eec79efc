package main

import (
	"context"
	"testing"

	authentication "k8s.io/api/authentication/v1"
	core "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/apiserver"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// attempts are what a controller that was taken over would like to do with its token.
var attempts = map[string]func(context.Context, kubernetes.Interface) error{
	"read another Secret of its namespace": func(ctx context.Context, c kubernetes.Interface) error {
		_, err := c.CoreV1().Secrets(core.NamespaceDefault).Get(ctx, "other", metav1.GetOptions{})
		return err
	},
	"list Secrets, and its own with them": func(ctx context.Context, c kubernetes.Interface) error {
		_, err := c.CoreV1().Secrets(core.NamespaceDefault).List(ctx, metav1.ListOptions{})
		return err
	},
	"read a Secret of that name in another namespace": func(
		ctx context.Context, c kubernetes.Interface,
	) error {
		_, err := c.CoreV1().Secrets(metav1.NamespaceSystem).Get(ctx, authority, metav1.GetOptions{})
		return err
	},
	"create a Secret": func(ctx context.Context, c kubernetes.Interface) error {
		_, err := c.CoreV1().Secrets(core.NamespaceDefault).Create(ctx,
			&core.Secret{ObjectMeta: metav1.ObjectMeta{Name: "new"}}, metav1.CreateOptions{})
		return err
	},
	"delete its Secret": func(ctx context.Context, c kubernetes.Interface) error {
		return c.CoreV1().Secrets(core.NamespaceDefault).Delete(ctx, authority, metav1.DeleteOptions{})
	},
	"change another ConfigMap": func(ctx context.Context, c kubernetes.Interface) error {
		_, err := c.CoreV1().ConfigMaps(core.NamespaceDefault).Update(ctx,
			&core.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "other"}}, metav1.UpdateOptions{})
		return err
	},
	"make a token of a node's account": func(ctx context.Context, c kubernetes.Interface) error {
		_, err := c.CoreV1().ServiceAccounts(core.NamespaceDefault).CreateToken(ctx, nodeAccount,
			&authentication.TokenRequest{}, metav1.CreateOptions{})
		return err
	},
	"create a pod": func(ctx context.Context, c kubernetes.Interface) error {
		_, err := apiserver.CreatePod(ctx, c, "mine", nodeName, nodeAccount)
		return err
	},
	"delete a pod": func(ctx context.Context, c kubernetes.Interface) error {
		return c.CoreV1().Pods(core.NamespaceDefault).Delete(ctx, "other", metav1.DeleteOptions{})
	},
	"change a node": func(ctx context.Context, c kubernetes.Interface) error {
		_, err := c.CoreV1().Nodes().Patch(ctx, nodeName, types.MergePatchType,
			[]byte(`{"metadata": {"labels": {"mine": ""}}}`), metav1.PatchOptions{})
		return err
	},
	"delete a node": func(ctx context.Context, c kubernetes.Interface) error {
		return c.CoreV1().Nodes().Delete(ctx, nodeName, metav1.DeleteOptions{})
	},
	"hold another program's lease": func(ctx context.Context, c kubernetes.Interface) error {
		_, err := c.CoordinationV1().Leases(core.NamespaceDefault).Get(ctx, "other", metav1.GetOptions{})
		return err
	},
	"hold a lease of the cluster": func(ctx context.Context, c kubernetes.Interface) error {
		_, err := c.CoordinationV1().Leases(metav1.NamespaceSystem).Get(ctx, "kube-scheduler",
			metav1.GetOptions{})
		return err
	},
	"change a class": func(ctx context.Context, c kubernetes.Interface) error {
		_, err := c.StorageV1().StorageClasses().Patch(ctx, "other", types.MergePatchType,
			[]byte(`{"metadata": {"labels": {"mine": ""}}}`), metav1.PatchOptions{})
		return err
	},
	"give itself a role": func(ctx context.Context, c kubernetes.Interface) error {
		_, err := c.RbacV1().ClusterRoleBindings().Create(ctx, &rbac.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "mine"},
			RoleRef:    rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		}, metav1.CreateOptions{})
		return err
	},
}

func TestTakenOverControllerCannot(t *testing.T) {
	server := apiserver.ForTest(t)
	applyChart(t, server, "central")
	admin, err := server.Admin()
	fixture.Must(t, err)
	_, err = admin.CoreV1().Secrets(core.NamespaceDefault).Create(t.Context(),
		&core.Secret{ObjectMeta: metav1.ObjectMeta{Name: "other"}}, metav1.CreateOptions{})
	fixture.Must(t, err)
	client, err := server.Client(controllerUser, "system:serviceaccounts")
	fixture.Must(t, err)
	// The user has the controller's rights.
	_, err = client.CoreV1().Secrets(core.NamespaceDefault).Get(t.Context(), authority,
		metav1.GetOptions{})
	fixture.Must(t, err)
	for what, attempt := range attempts {
		if err := attempt(t.Context(), client); !apierrors.IsForbidden(err) {
			t.Errorf("the controller's token can %s: %v", what, err)
		}
	}
}
