// Package kube is what the controller asks of the Kubernetes API.
package kube

import (
	"fmt"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Options say which API server is used, and how much.
type Options struct {
	// Kubeconfig is the path of a configuration file. Default empty: the pod's own service account.
	Kubeconfig string
	// QPS and Burst bound the requests per second to the API server.
	QPS   float32
	Burst int
	// UserAgent names the program in the API server's audit log.
	UserAgent string
}

// NewClient connects to nothing: the first request does. Errors: the configuration cannot be read,
// or the process is in no pod.
func NewClient(o Options) (kubernetes.Interface, error) {
	config, err := o.config()
	if err != nil {
		return nil, err
	}
	// Half the bytes of JSON, and a fraction of the time to decode them.
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("use the API server %s: %w", config.Host, err)
	}
	return client, nil
}

// NewDynamicClient is a client of APIs that are not Kubernetes' own. Errors: those of NewClient.
func NewDynamicClient(o Options) (dynamic.Interface, error) {
	config, err := o.config()
	if err != nil {
		return nil, err
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("use the API server %s: %w", config.Host, err)
	}
	return client, nil
}

func (o Options) config() (*rest.Config, error) {
	config, err := o.find()
	if err != nil {
		return nil, fmt.Errorf("find the API server: %w", err)
	}
	config.QPS, config.Burst = o.QPS, o.Burst
	config.UserAgent = o.UserAgent
	return config, nil
}

// find reads the file or, without one, what kubelet gives to a pod. Without a file
// clientcmd.BuildConfigFromFlags warns, and then does the same.
func (o Options) find() (*rest.Config, error) {
	if o.Kubeconfig == "" {
		return rest.InClusterConfig()
	}
	return clientcmd.BuildConfigFromFlags("", o.Kubeconfig)
}
