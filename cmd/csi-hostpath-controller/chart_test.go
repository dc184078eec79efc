package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/apiserver"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// What the chart makes, in the release "test" and the namespace default.
const (
	nodeAccount       = "test-csi-hostpath"
	controllerAccount = "test-csi-hostpath-controller"
	placerAccount     = "test-csi-hostpath-placer"
	controllerUser    = "system:serviceaccount:default:" + controllerAccount
	authority         = "test-csi-hostpath-controller-ca"
)

// applied are the kinds of the chart that say what the controller may do, and what it works with.
var applied = map[string]string{
	"CustomResourceDefinition":         "customresourcedefinitions",
	"ServiceAccount":                   "serviceaccounts",
	"Secret":                           "secrets",
	"ConfigMap":                        "configmaps",
	"ClusterRole":                      "clusterroles",
	"ClusterRoleBinding":               "clusterrolebindings",
	"Role":                             "roles",
	"RoleBinding":                      "rolebindings",
	"StorageClass":                     "storageclasses",
	"ValidatingAdmissionPolicy":        "validatingadmissionpolicies",
	"ValidatingAdmissionPolicyBinding": "validatingadmissionpolicybindings",
}

// applyChart makes the objects of a deployment, without what runs.
func applyChart(t *testing.T, server *apiserver.Server, deployment string, values ...string) {
	t.Helper()
	const helm = "../../bin/tools/helm"
	if _, err := os.Stat(helm); err != nil {
		t.Skip("needs Helm: run 'make tools'")
	}
	config, err := server.Config("admin", "system:masters")
	fixture.Must(t, err)
	config.ContentType, config.AcceptContentTypes = "", "" // of these kinds only JSON is known
	client, err := dynamic.NewForConfig(config)
	fixture.Must(t, err)
	args := []string{
		"template", "test", "../../deploy/helm/csi-hostpath", "--namespace=default",
		"--set=deployment=" + deployment,
	}
	for _, value := range values {
		args = append(args, "--set="+value)
	}
	rendered, err := exec.CommandContext(t.Context(), helm, args...).Output()
	fixture.Must(t, err)
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(rendered), 4096)
	for {
		var o unstructured.Unstructured
		if err := decoder.Decode(&o); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		resource := applied[o.GetKind()]
		if resource == "" {
			continue
		}
		version, err := schema.ParseGroupVersion(o.GetAPIVersion())
		fixture.Must(t, err)
		var objects dynamic.ResourceInterface = client.Resource(version.WithResource(resource))
		if o.GetNamespace() != "" {
			objects = client.Resource(version.WithResource(resource)).Namespace(o.GetNamespace())
		}
		_, err = objects.Create(t.Context(), &o, metav1.CreateOptions{})
		fixture.Must(t, err)
	}
}
