package rpc

import (
	"context"
	"io"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"k8s.io/klog/v2/textlogger"
)

// benchmarkRequest returns a request as kubelet sends it for a pod, with the volume context of
// podInfoOnMount.
func benchmarkRequest() *csi.NodePublishVolumeRequest {
	const pvc = "pvc-7d0c2c1e-3d7b-4a2f-9b1e-0f6c9f5a7c11"
	const (
		kubelet = "/var/lib/kubelet"
		staging = kubelet + "/plugins/kubernetes.io/csi/hostpath.csi.local/"
	)
	return &csi.NodePublishVolumeRequest{
		VolumeId:          testPool + "-" + pvc,
		StagingTargetPath: staging + "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0/globalmount",
		TargetPath:        kubelet + "/pods/5e6f7a8b-1234-4cde-9f01-23456789abcd/volumes/kubernetes.io~csi/" + pvc + "/mount",
		VolumeCapability: &csi.VolumeCapability{
			AccessMode: &csi.VolumeCapability_AccessMode{
				Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER,
			},
			AccessType: &csi.VolumeCapability_Mount{
				Mount: &csi.VolumeCapability_MountVolume{FsType: "ext4", MountFlags: []string{"noexec"}},
			},
		},
		VolumeContext: map[string]string{
			"type":                                         "DirectoryOrCreate",
			"csi.storage.k8s.io/pod.name":                  "web-0",
			"csi.storage.k8s.io/pod.namespace":             "default",
			"csi.storage.k8s.io/pod.uid":                   "5e6f7a8b-1234-4cde-9f01-23456789abcd",
			"csi.storage.k8s.io/serviceAccount.name":       "default",
			"csi.storage.k8s.io/ephemeral":                 "false",
			"storage.kubernetes.io/csiProvisionerIdentity": "1700000000000-8081-hostpath.csi.local",
		},
	}
}

var publishInfo = &grpc.UnaryServerInfo{FullMethod: csi.Node_NodePublishVolume_FullMethodName}

func emptyHandler(
	context.Context, any,
) (any, error) {
	return &csi.NodePublishVolumeResponse{}, nil
}

// chained nests the interceptors as grpc.ChainUnaryInterceptor does, closures included.
func chained(list []grpc.UnaryServerInterceptor, handler grpc.UnaryHandler) grpc.UnaryHandler {
	if len(list) == 0 {
		return handler
	}
	return func(ctx context.Context, req any) (any, error) {
		return list[0](ctx, req, publishInfo, chained(list[1:], handler))
	}
}

func run(b *testing.B, list ...grpc.UnaryServerInterceptor) {
	b.Helper()
	req, ctx := benchmarkRequest(), b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := chained(list, emptyHandler)(ctx, req); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkChain measures what the interceptors add to a call at the default verbosity.
func BenchmarkChain(b *testing.B) {
	logger := textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(io.Discard)))
	list := interceptors(Options{Logger: logger, Registerer: prometheus.NewRegistry()})
	run(b, list...)
}

// BenchmarkInterceptor measures each interceptor of BenchmarkChain alone.
func BenchmarkInterceptor(b *testing.B) {
	logger := textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(io.Discard)))
	list := interceptors(Options{Logger: logger})
	for i, name := range []string{"metrics", "log", "errors", "recover", "limits", "lock"} {
		b.Run(name, func(b *testing.B) { run(b, list[i]) })
	}
}
