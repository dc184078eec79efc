package main

import (
	"context"
	"encoding/json"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/csi-hostpath/csi-hostpath/pkg/adminpb"
	"github.com/csi-hostpath/csi-hostpath/pkg/command"
	"github.com/csi-hostpath/csi-hostpath/pkg/status"
)

// admin is a driver with one entry in its trash.
type admin struct {
	adminpb.UnimplementedAdminServer
}

func (admin) Undelete(
	_ context.Context, req *adminpb.UndeleteRequest,
) (*adminpb.UndeleteResponse, error) {
	if req.GetEntry() != "pvc-1.0a" || req.GetPool() != "" && req.GetPool() != "default" {
		return nil, grpcstatus.Error(codes.NotFound, "the trash has no entry "+req.GetEntry())
	}
	return &adminpb.UndeleteResponse{
		VolumeId: "7a3baca9c553-pvc-1", Pool: "default", CapacityBytes: 5, TopologyKey: "k",
		TopologyValue: "a", Namespace: "shop", Claim: "books", PersistentVolume: "pvc-1",
	}, nil
}

func serveAdmin(t *testing.T) (endpoint string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "csi.sock")
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	adminpb.RegisterAdminServer(server, admin{})
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return "unix://" + path
}

func TestUndeleteSaysWhatTheDriverSays(t *testing.T) {
	endpoint := serveAdmin(t)
	for _, tc := range []struct {
		args []string
		code int
		want string
	}{
		{nil, command.ExitUsage, "give the name of one entry"},
		{[]string{"a", "b"}, command.ExitUsage, "give the name of one entry"},
		{[]string{"pvc-1.0a", "--endpoint=tcp://:1"}, command.ExitUsage, "--endpoint: "},
		{[]string{"pvc-1.0a", "-o", "yaml"}, command.ExitUsage, "must be json"},
		{[]string{"pvc-2.0a", "--endpoint=" + endpoint}, command.ExitFailure, "no entry pvc-2.0a"},
		{
			[]string{"pvc-1.0a", "--endpoint=" + endpoint},
			command.ExitOK,
			"Volume 7a3baca9c553-pvc-1 is back in pool default, with 5 bytes.",
		},
		{
			[]string{"pvc-1.0a", "--endpoint=unix:///nowhere/csi.sock"},
			command.ExitFailure,
			"no such file",
		},
	} {
		code, out, errs := call(nil, append([]string{"undelete"}, tc.args...)...)
		if code != tc.code || !strings.Contains(out+errs, tc.want) {
			t.Errorf("undelete %q: %d, %q, %q; want %d and %q", tc.args, code, out, errs, tc.code, tc.want)
		}
	}
	_, out, _ := call(nil, "undelete", "pvc-1.0a", "--endpoint="+endpoint, "-o", "json")
	var v status.Undeleted
	if err := json.Unmarshal([]byte(out), &v); err != nil || v.ID != "7a3baca9c553-pvc-1" ||
		v.Topology["k"] != "a" || v.Claim == nil || v.Claim.Name != "books" {
		t.Errorf("%v, %+v in %s", err, v, out)
	}
}
