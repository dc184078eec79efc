package driver

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/csi-hostpath/csi-hostpath/pkg/config"
	"github.com/csi-hostpath/csi-hostpath/pkg/link"
	"github.com/csi-hostpath/csi-hostpath/pkg/link/certs"
	"github.com/csi-hostpath/csi-hostpath/pkg/link/linkpb"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/stuck"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// controller is one that knows a single node.
type controller struct {
	linked chan *link.Link

	mu           sync.Mutex
	data, bundle []byte
}

func (*controller) NodeOf(_ context.Context, token string) (string, error) {
	if token != "token" {
		return "", errors.New("nobody's token")
	}
	return "node-1", nil
}

func (c *controller) Linked(l *link.Link)      { c.linked <- l }
func (*controller) Unlinked(*link.Link, error) {}

func (c *controller) Load(context.Context) (data []byte, version string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.data, "", nil
}

func (c *controller) Save(_ context.Context, data []byte, _ string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.data = data
	return nil
}

func (c *controller) Publish(_ context.Context, bundle []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bundle = bundle
	return nil
}

// runController runs a controller until the test ends, and returns what a node needs to link to it.
func runController(t *testing.T) (*controller, config.Config) {
	t.Helper()
	const serverName = "controller"
	c := &controller{linked: make(chan *link.Link, 10)}
	issuer := certs.NewIssuer(certs.Options{Store: c, ServerName: serverName})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	fixture.Must(t, err)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { issuer.Run(ctx) })
	wg.Go(func() {
		if err := link.Serve(ctx, listener, link.ServerOptions{
			GetCertificate: issuer.GetCertificate,
			Authenticator:  c,
			Fleet:          c,
			DriverName:     config.Default().DriverName,
		}); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { stop(); wg.Wait() })
	fixture.Eventually(t, "there is a certificate", func() bool { return issuer.Ready() == nil })
	dir := t.TempDir()
	cfg := config.Default()
	cfg.ControllerAddress, cfg.ControllerServerName = listener.Addr().String(), serverName
	cfg.ControllerCA, cfg.ControllerToken = filepath.Join(dir, "ca.crt"), filepath.Join(dir, "token")
	fixture.Must(t, os.WriteFile(cfg.ControllerCA, c.bundle, 0o600))
	fixture.Must(t, os.WriteFile(cfg.ControllerToken, []byte("token"), 0o600))
	return c, cfg
}

// next waits for something of a channel.
func next[T any](t *testing.T, what string, from <-chan T) (result T) {
	t.Helper()
	select {
	case result = <-from:
	case <-time.After(fixture.Patience()):
		t.Fatalf("no %s", what)
	}
	return result
}

// watch follows the state that a node pushes.
func watch(t *testing.T, l *link.Link) <-chan *linkpb.State {
	t.Helper()
	stream, err := linkpb.NewNodeClient(l.Conn).Watch(t.Context(), &linkpb.WatchRequest{})
	fixture.Must(t, err)
	states := make(chan *linkpb.State, 100)
	go func() {
		defer close(states)
		for {
			state, err := stream.Recv()
			if err != nil {
				return
			}
			states <- state
		}
	}()
	return states
}

func TestControllerCallsTheNodeAndHearsOfItsRoomButDoesNotMount(t *testing.T) {
	disks.RequireRoot(t)
	c, cfg := runController(t)
	cfg.NodeName, cfg.KubeletDir, cfg.Endpoint = "node-1", t.TempDir(), "unix://"+fixture.Socket(t)
	// A disk of its own: others use that of the temporary directories.
	disk := disks.New(t, disks.XFS, 0)
	cfg.Pools = []config.Pool{config.NewPool("p", filepath.Join(disk.Dir, "p"))}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, cfg) }()
	l := next(t, "link", c.linked)
	states := watch(t, l)
	state := next(t, "state", states)
	for state.GetPools()[0].GetNotReady() != "" {
		state = next(t, "state of an open pool", states)
	}
	before := state.GetPools()[0]
	if before.GetName() != "p" || !before.GetIsDefault() || len(before.GetUuid()) != 36 ||
		before.GetSizeBytes() == 0 {
		t.Errorf("the node has pushed %v", before)
	}

	client := csi.NewControllerClient(l.Conn)
	const size = 100 << 20
	created, err := client.CreateVolume(t.Context(), &csi.CreateVolumeRequest{
		Name:          "pvc-1",
		CapacityRange: &csi.CapacityRange{RequiredBytes: size},
		VolumeCapabilities: []*csi.VolumeCapability{{
			AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
			AccessMode: &csi.VolumeCapability_AccessMode{
				Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER,
			},
		}},
	})
	fixture.Must(t, err)
	for state.GetPools()[0].GetVolumes() != 1 {
		state = next(t, "state after a volume was made", states)
	}
	if room := state.GetPools()[0].GetAvailableBytes(); room > before.GetAvailableBytes()-size/2 {
		t.Errorf("%d bytes available before, %d after", before.GetAvailableBytes(), room)
	}
	_, err = csi.NewNodeClient(l.Conn).NodeStageVolume(t.Context(),
		&csi.NodeStageVolumeRequest{VolumeId: created.GetVolume().GetVolumeId()})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("the controller may mount: %v", err)
	}

	stop()
	fixture.Must(t, next(t, "end of the driver", ended))
	for range states { // ends with the driver
		continue
	}
}

func TestPoolThatHangsDoesNotKeepTheControllerFromHearingOfOthers(t *testing.T) {
	good, bad := config.NewPool("good", t.TempDir()+"/p"), config.NewPool("bad", t.TempDir()+"/p")
	pools := newPools(t, good, bad)
	pools.askingStatus = stuck.NewCalls(time.Second)
	keepOpening(t, pools)
	fixture.Eventually(t, "the pools are open", func() bool { return len(pools.Open()) == 2 })
	states := newPoolStates(pools)
	hanging, ended := make(chan struct{}), make(chan struct{})
	defer func() { close(hanging); <-ended }()
	asked := make(chan struct{})
	go func() {
		defer close(ended)
		q := stuck.Question{Key: bad.Name, Path: bad.Path}
		_, _ = stuck.Do(t.Context(), pools.askingStatus, q, func() (pool.Status, error) {
			close(asked)
			<-hanging
			return pool.Status{}, nil
		}, nil)
	}()
	<-asked
	state := states.measure()
	if p := state.GetPools()[0]; p.GetNotReady() != "" || p.GetSizeBytes() == 0 {
		t.Errorf("the good pool: %v", p)
	}
	if p := state.GetPools()[1]; p.GetNotReady() != "hangs" || p.GetUuid() == "" {
		t.Errorf("the pool that hangs: %v", p)
	}
}

func TestOnlyWhatMattersIsPushed(t *testing.T) {
	const size = 1 << 30
	state := func(available int64, notReady string) *linkpb.State {
		return &linkpb.State{Pools: []*linkpb.Pool{{
			Name: "p", SizeBytes: size, AvailableBytes: available, NotReady: notReady,
		}}}
	}
	for _, tt := range []struct {
		name   string
		next   *linkpb.State
		called bool
		age    time.Duration
		want   bool
	}{
		{"nothing", state(size, ""), true, time.Hour, false},
		{"a little", state(size-4096, ""), false, 0, false},
		{"a little, by a call", state(size-4096, ""), true, 0, true},
		{"a little, long ago", state(size-4096, ""), false, time.Hour, true},
		{"much", state(size/2, ""), false, 0, true},
		{"the disk has failed", state(size, "disk_failed"), false, 0, true},
		{"another pool", &linkpb.State{}, false, 0, true},
		{
			"content that is stale",
			&linkpb.State{
				Pools:      state(size, "").GetPools(),
				References: []*linkpb.UnhealthyVolume{{Id: "x", Faults: []string{"git_stale"}}},
			},
			false, 0, true,
		},
	} {
		s := newPoolStates(nil)
		s.set(state(size, ""), false)
		s.since = time.Now().Add(-tt.age)
		changed := s.changed.next()
		s.set(tt.next, tt.called)
		select {
		case <-changed:
			if !tt.want {
				t.Errorf("%s: is pushed", tt.name)
			}
		default:
			if tt.want {
				t.Errorf("%s: is not pushed", tt.name)
			}
		}
	}
}
