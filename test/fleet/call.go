package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/process"
	"github.com/csi-hostpath/csi-hostpath/test/report"
)

// realNode is the node of the real driver, beside the simulated ones.
const realNode = "node-real"

// callsThroughRouter compares calls to the router with the same calls to the socket of a real
// driver, call by call in turn. The volumes are in memory, so that what a disk takes does not hide
// the router.
func (b *bench) callsThroughRouter(ctx context.Context) (err error) {
	f, err := b.newFleet(ctx, fleetOptions{nodes: min(b.nodes, 100), replicas: 1})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close(b.keep)) }()
	driver, err := f.startLinkedDriver(ctx)
	if err != nil {
		return err
	}
	router, closeRouter, err := dial(f.socket(0))
	if err != nil {
		return err
	}
	defer closeRouter()
	if err := f.waitRouted(ctx, router); err != nil {
		return err
	}
	var rows []callRow
	for round := range b.rounds {
		for i, c := range calls {
			if round == 0 {
				rows = append(rows, callRow{name: c.name})
			}
			if err := rows[i].measure(ctx, b.calls, realNode, c, router, driver.Controller); err != nil {
				return err
			}
		}
	}
	var all []report.Row
	for _, r := range rows {
		all = append(all, report.NewRow(r.name+" through the router, p50", "ms", r.router).
			Beside(r.router, r.node),
			report.NewRow("– more than at the node", "ms", r.more).AtMost(0.3))
	}
	b.report.Chapter("A call through the router; floor: at the node", all...)
	return nil
}

// startLinkedDriver starts the real driver, with a link to the controller.
func (f *fleet) startLinkedDriver(ctx context.Context) (*process.Process, error) {
	if err := f.nodeObjects(ctx, realNode); err != nil {
		return nil, err
	}
	binary, err := process.Build(ctx, f.dir)
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(f.address)
	if err != nil {
		return nil, err
	}
	return f.startDriver(ctx, binary, realNode,
		"--controller-address="+net.JoinHostPort(replicaAddress(0).String(), port),
		"--controller-ca="+filepath.Join(f.path("files"), caFile),
		"--controller-token="+filepath.Join(f.path("files"), realNode),
		"--controller-server-name="+serverName)
}

// waitRouted waits until the router reaches the real driver.
func (f *fleet) waitRouted(ctx context.Context, router csi.ControllerClient) error {
	return f.wait(ctx, "the link of the driver", func(ctx context.Context) (string, error) {
		id, err := createVolume(ctx, router, realNode)
		if err != nil {
			return "it is not linked", err
		}
		return "", deleteVolume(ctx, router, id)
	})
}

// callRow has the medians of each round.
type callRow struct {
	name               string
	router, node, more []float64
}

func (r *callRow) measure(
	ctx context.Context, count int, node string, c call, router, direct csi.ControllerClient,
) error {
	var times [2][]time.Duration
	for i, client := range []csi.ControllerClient{router, direct} {
		if err := c.prepare(ctx, client, node); err != nil {
			return fmt.Errorf("%s, client %d: %w", c.name, i, err)
		}
	}
	for range count {
		for i, client := range []csi.ControllerClient{router, direct} {
			took, err := c.make(ctx, client, node)
			if err != nil {
				return fmt.Errorf("%s, client %d: %w", c.name, i, err)
			}
			times[i] = append(times[i], took)
		}
	}
	a, b := report.P50(times[0]), report.P50(times[1])
	r.router, r.node, r.more = append(r.router, a), append(r.node, b), append(r.more, a-b)
	return nil
}

// call is something that a sidecar asks for.
type call struct {
	name string
	// make makes the call once, and says how long it took.
	make func(ctx context.Context, c csi.ControllerClient, node string) (time.Duration, error)
}

// prepare makes the call without measuring it: the first one is always slow.
func (c call) prepare(ctx context.Context, client csi.ControllerClient, node string) error {
	_, err := c.make(ctx, client, node)
	return err
}

var calls = []call{
	{"CreateVolume", timeCreate},
	{"ControllerGetVolume", timeGet},
	{"DeleteVolume", timeDelete},
}

func timeCreate(ctx context.Context, c csi.ControllerClient, node string) (time.Duration, error) {
	start := time.Now()
	id, err := createVolume(ctx, c, node)
	took := time.Since(start)
	if err != nil {
		return 0, err
	}
	return took, deleteVolume(ctx, c, id)
}

func timeDelete(ctx context.Context, c csi.ControllerClient, node string) (time.Duration, error) {
	id, err := createVolume(ctx, c, node)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	err = deleteVolume(ctx, c, id)
	return time.Since(start), err
}

func timeGet(ctx context.Context, c csi.ControllerClient, node string) (time.Duration, error) {
	id, err := createVolume(ctx, c, node)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	_, err = c.ControllerGetVolume(ctx, &csi.ControllerGetVolumeRequest{VolumeId: id})
	took := time.Since(start)
	return took, errors.Join(err, deleteVolume(ctx, c, id))
}

// createVolume makes a volume of a claim for which the scheduler has chosen the node.
func createVolume(ctx context.Context, c creator, node string) (string, error) {
	here := []*csi.Topology{{Segments: volume.Topology(driverName, node)}}
	resp, err := c.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name:          volumeName(),
		CapacityRange: &csi.CapacityRange{RequiredBytes: claimBytes},
		VolumeCapabilities: []*csi.VolumeCapability{{
			AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
			AccessMode: &csi.VolumeCapability_AccessMode{
				Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER,
			},
		}},
		AccessibilityRequirements: &csi.TopologyRequirement{Requisite: here, Preferred: here},
	})
	return resp.GetVolume().GetVolumeId(), err
}

func deleteVolume(ctx context.Context, c csi.ControllerClient, id string) error {
	_, err := c.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id})
	return err
}

// dial connects to a socket.
func dial(socket string) (csi.ControllerClient, func(), error) {
	conn, err := grpc.NewClient("unix://"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost"))
	if err != nil {
		return nil, nil, err
	}
	return csi.NewControllerClient(conn), func() { _ = conn.Close() }, nil
}
