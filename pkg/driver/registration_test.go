package driver

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/csi-hostpath/csi-hostpath/pkg/config"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// startRegistration serves the registration socket below a new kubelet directory, where kubelet
// would look for it.
func startRegistration(
	t *testing.T,
) (
	client registerapi.RegistrationClient, socket string, stop context.CancelFunc, ended <-chan error,
) {
	t.Helper()
	cfg := config.Default()
	cfg.KubeletDir = t.TempDir()
	cfg.Endpoint = "unix:///var/lib/kubelet/plugins/hostpath.csi.local/csi.sock"
	cfg.RegisterWithKubelet = true
	socket = filepath.Join(cfg.KubeletDir, "plugins_registry", "hostpath.csi.local-reg.sock")
	if err := os.Mkdir(filepath.Dir(socket), 0o750); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- serveRegistration(ctx, cfg) }()
	conn, err := grpc.NewClient("unix://"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(); _ = conn.Close() })
	return registerapi.NewRegistrationClient(conn), socket, stop, done
}

func wait(t *testing.T, ended <-chan error) error {
	t.Helper()
	select {
	case err := <-ended:
		return err
	case <-time.After(fixture.Patience()):
		t.Fatal("the registration has not ended")
		return nil
	}
}

func TestKubeletLearnsWhereTheDriverIs(t *testing.T) {
	client, socket, stop, ended := startRegistration(t)
	info, err := client.GetInfo(t.Context(), &registerapi.InfoRequest{}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	if info.GetType() != registerapi.CSIPlugin || info.GetName() != "hostpath.csi.local" ||
		info.GetEndpoint() != "/var/lib/kubelet/plugins/hostpath.csi.local/csi.sock" {
		t.Errorf("kubelet is told %v", info)
	}
	if _, err := client.NotifyRegistrationStatus(
		t.Context(),
		&registerapi.RegistrationStatus{PluginRegistered: true},
	); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := wait(t, ended); err != nil {
		t.Errorf("stopped registration: %v", err)
	}
	if _, err := os.Lstat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf(
			"the socket is still there after the stop (%v): kubelet would call a driver that is gone",
			err,
		)
	}
}

func TestRefusalByKubeletEndsTheDriver(t *testing.T) {
	client, _, _, ended := startRegistration(t)
	refusal := &registerapi.RegistrationStatus{Error: "another driver has that name"}
	if _, err := client.NotifyRegistrationStatus(
		t.Context(),
		refusal,
		grpc.WaitForReady(true),
	); err != nil {
		t.Fatal(err)
	}
	if err := wait(t, ended); err == nil || !strings.Contains(err.Error(), refusal.GetError()) {
		t.Errorf("after kubelet's refusal: %v", err)
	}
}
