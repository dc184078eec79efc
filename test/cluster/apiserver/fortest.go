package apiserver

import (
	"context"
	"path/filepath"
	"testing"

	authentication "k8s.io/api/authentication/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// ForTest starts an API server that ends with the test. It skips the test if the programs would
// have to be built first.
func ForTest(t testing.TB, controllers ...string) *Server {
	t.Helper()
	built, err := IsBuilt(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !built {
		t.Skip("needs the programs of test/cluster, which are not in the cache: run `make e2e`")
	}
	s, err := Start(t.Context(), Options{
		Dir: t.TempDir(), Controllers: controllers, Progress: t.Logf,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Admin is a client that may do everything.
func (s *Server) Admin() (*kubernetes.Clientset, error) { return s.Client("admin", adminGroup) }

// PodKubeconfig writes a configuration file with the token that a pod has, and returns its path.
// The API server knows from it the pod's service account, the pod and its node.
func (s *Server) PodKubeconfig(ctx context.Context, pod *core.Pod) (string, error) {
	admin, err := s.Admin()
	if err != nil {
		return "", err
	}
	token, err := Token(ctx, admin, pod, Issuer)
	if err != nil {
		return "", err
	}
	path, err := s.Kubeconfig("admin", adminGroup)
	if err != nil {
		return "", err
	}
	config, err := clientcmd.LoadFromFile(path)
	if err != nil {
		return "", err
	}
	for name := range config.AuthInfos {
		config.AuthInfos[name] = &api.AuthInfo{Token: token}
	}
	path = filepath.Join(s.options.Dir, "pod-"+pod.Name+".kubeconfig")
	return path, clientcmd.WriteToFile(*config, path)
}

// PodConfig is a client's configuration with the token that a pod has.
func (s *Server) PodConfig(ctx context.Context, pod *core.Pod) (*rest.Config, error) {
	path, err := s.PodKubeconfig(ctx, pod)
	if err != nil {
		return nil, err
	}
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	return config, nil
}

// CreateServiceAccount creates a service account in the namespace default.
func CreateServiceAccount(ctx context.Context, c kubernetes.Interface, name string) error {
	_, err := c.CoreV1().ServiceAccounts(core.NamespaceDefault).Create(ctx,
		&core.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	return err
}

// CreatePod creates a pod in the namespace default, which runs nowhere, with a node's name and a
// service account.
func CreatePod(
	ctx context.Context, c kubernetes.Interface, name, node, serviceAccount string,
) (*core.Pod, error) {
	automount := false
	return c.CoreV1().Pods(core.NamespaceDefault).Create(ctx, &core.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: core.PodSpec{
			NodeName:                     node,
			ServiceAccountName:           serviceAccount,
			AutomountServiceAccountToken: &automount,
			Containers:                   []core.Container{{Name: "pause", Image: "pause"}},
		},
	}, metav1.CreateOptions{})
}

// Token issues a token of the pod's service account for an audience, as kubelet asks for it. It is
// bound to the pod.
func Token(
	ctx context.Context, c kubernetes.Interface, pod *core.Pod, audience string,
) (string, error) {
	request, err := c.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(ctx,
		pod.Spec.ServiceAccountName, &authentication.TokenRequest{
			Spec: authentication.TokenRequestSpec{
				Audiences: []string{audience},
				BoundObjectRef: &authentication.BoundObjectReference{
					Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID,
				},
			},
		}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return request.Status.Token, nil
}
