package statuslink

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/csi-hostpath/csi-hostpath/pkg/link/linkpb"
	"github.com/csi-hostpath/csi-hostpath/pkg/status"
)

// filler gives every field a value of its own, so that a field that is lost or mixed up is seen.
type filler struct{ n int64 }

func (f *filler) fill(v reflect.Value) {
	f.n++
	switch {
	case v.Type() == reflect.TypeFor[time.Time]():
		v.Set(reflect.ValueOf(time.Unix(1_700_000_000+f.n, 0).UTC()))
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		f.fill(v.Elem())
	case v.Kind() == reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		f.fill(v.Index(0))
		f.fill(v.Index(1))
	case v.Kind() == reflect.Map:
		v.Set(reflect.ValueOf(map[string]int64{strconv.FormatInt(f.n, 10): f.n}))
	case v.Kind() == reflect.Struct:
		for _, field := range v.Fields() {
			f.fill(field)
		}
	case v.Kind() == reflect.Int64:
		v.SetInt(f.n)
	case v.Kind() == reflect.String:
		v.SetString(fmt.Sprint("text ", f.n))
	case v.Kind() == reflect.Bool:
		v.SetBool(true)
	}
}

// node answers with one item of each, whatever the query is.
type node struct {
	volume   status.Volume
	pool     status.Pool
	snapshot status.Snapshot
	trash    status.TrashEntry
	copying  status.Copy
	missing  status.Missing
	next     string
	asked    status.Query
	err      error
}

func listOf[T any](n *node, q status.Query, item T) (status.List[T], error) {
	n.asked = q
	return status.List[T]{
		Items: []T{item}, Next: cmp.Or(n.next, "next"), Missing: []status.Missing{n.missing},
	}, n.err
}

func (n *node) Pools(_ context.Context, q status.Query) (status.List[status.Pool], error) {
	return listOf(n, q, n.pool)
}

func (n *node) Volumes(_ context.Context, q status.Query) (status.List[status.Volume], error) {
	return listOf(n, q, n.volume)
}

func (n *node) Volume(context.Context, string) (status.Volume, error) { return n.volume, n.err }

func (n *node) Snapshots(_ context.Context, q status.Query) (status.List[status.Snapshot], error) {
	return listOf(n, q, n.snapshot)
}

func (n *node) Trash(_ context.Context, q status.Query) (status.List[status.TrashEntry], error) {
	return listOf(n, q, n.trash)
}

func (n *node) Copies(_ context.Context, q status.Query) (status.List[status.Copy], error) {
	return listOf(n, q, n.copying)
}

func newNode() *node {
	n := &node{}
	f := &filler{}
	for _, v := range []any{&n.volume, &n.pool, &n.snapshot, &n.trash, &n.copying, &n.missing} {
		f.fill(reflect.ValueOf(v).Elem())
	}
	return n
}

// dial connects a client with a node; without one, with a node of before the service.
func dial(t *testing.T, n *node) *Client {
	t.Helper()
	listener := bufconn.Listen(1 << 20)
	server := grpc.NewServer()
	if n != nil {
		linkpb.RegisterStatusServer(server, &Server{Pools: n})
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:node",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return listener.DialContext(ctx)
		}), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return NewClient("node-1", conn)
}

func check[T any](t *testing.T, what string, got status.List[T], err error, want T) {
	t.Helper()
	if err != nil || len(got.Items) != 1 || !reflect.DeepEqual(got.Items[0], want) {
		t.Errorf("%s: %v\ngot  %+v\nwant %+v", what, err, got.Items, want)
	}
	if got.Next != "next" || len(got.Missing) != 1 || got.Missing[0].Node != "node-1" ||
		!strings.HasPrefix(got.Missing[0].Pool, "text") ||
		!strings.HasPrefix(got.Missing[0].Reason, "text") {
		t.Errorf("%s: next %q, missing %+v", what, got.Next, got.Missing)
	}
}

func TestNothingIsLostOnTheLinkAndTheNodeCannotNameAnother(t *testing.T) {
	n := newNode()
	c, ctx := dial(t, n), t.Context()
	q := status.Query{Pool: "p", Namespace: "ns", Volume: "v", After: "a", Limit: 7}

	pool := n.pool
	// The controller computes the growth itself, and asks before it says AsOf.
	pool.Node, pool.AsOf, pool.GrowthBytesPerDay = "node-1", nil, status.Growth(pool.Use)
	pools, err := c.Pools(ctx, q)
	check(t, "pools", pools, err, pool)
	if n.asked != q {
		t.Errorf("query %+v, want %+v", n.asked, q)
	}

	v := n.volume
	// The controller adds what the API server has.
	v.Node, v.PersistentVolume = "node-1", nil
	v.Snapshots = append([]status.Snapshot(nil), v.Snapshots...)
	for i := range v.Snapshots {
		v.Snapshots[i].Node = "node-1"
	}
	volumes, err := c.Volumes(ctx, q)
	check(t, "volumes", volumes, err, v)
	if one, err := c.Volume(ctx, "v"); err != nil || !reflect.DeepEqual(one, v) {
		t.Errorf("volume: %v\ngot  %+v\nwant %+v", err, one, v)
	}

	n.snapshot.Node, n.trash.Node, n.copying.Node = "node-1", "node-1", "node-1"
	snapshots, err := c.Snapshots(ctx, q)
	check(t, "snapshots", snapshots, err, n.snapshot)
	entries, err := c.Trash(ctx, q)
	check(t, "trash", entries, err, n.trash)
	copies, err := c.Copies(ctx, q)
	check(t, "copies", copies, err, n.copying)
}

func TestErrorsKeepTheirMeaningOnTheLink(t *testing.T) {
	n := newNode()
	c := dial(t, n)
	for _, want := range []error{status.ErrNotFound, status.ErrInvalid} {
		n.err = fmt.Errorf("%w: said why", want)
		_, err := c.Volume(t.Context(), "v")
		if !isOnly(err, want) || !strings.Contains(err.Error(), "said why") {
			t.Errorf("%v, want %v", err, want)
		}
	}
}

// isOnly says whether an error is one of those that a client tells apart, and no other.
func isOnly(err, want error) bool {
	for _, e := range []error{status.ErrNotFound, status.ErrInvalid, ErrOld} {
		if errors.Is(err, e) != errors.Is(want, e) {
			return false
		}
	}
	return true
}

func TestNodeWithAnOlderDriverSaysSo(t *testing.T) {
	c := dial(t, nil)
	if _, err := c.Pools(t.Context(), status.Query{Limit: 1}); !isOnly(err, ErrOld) {
		t.Errorf("%v, want %v", err, ErrOld)
	}
}

func TestNodeSendsNoMoreThanWasAskedFor(t *testing.T) {
	got := queryFrom(&linkpb.StatusQuery{Limit: 1_000_000})
	if got.Limit != status.MaxLimit {
		t.Errorf("limit %d, want %d", got.Limit, status.MaxLimit)
	}
	if got := queryFrom(&linkpb.StatusQuery{}); got.Limit != 1 {
		t.Errorf("limit %d, want 1", got.Limit)
	}
}

// The next is a parameter of the next request.
func TestNextOfANodeIsBounded(t *testing.T) {
	n := newNode()
	c := dial(t, n)
	for size, ok := range map[int]bool{maxNextBytes: true, maxNextBytes + 1: false} {
		n.next = strings.Repeat("x", size)
		l, err := c.Volumes(t.Context(), status.Query{Limit: 1})
		if (err == nil) != ok || ok && l.Next != n.next {
			t.Errorf("%d bytes: next %q, %v", size, l.Next, err)
		}
	}
}

func TestTimesOfANodeAreTimesOfJSON(t *testing.T) {
	for seconds, zero := range map[int64]bool{
		0: true, -1: true, math.MinInt64: true, math.MaxInt64: true, lastSecond + 1: true,
		lastSecond: false, 1: false,
	} {
		at := secondsFrom(seconds)
		if _, err := json.Marshal(at); err != nil || at.IsZero() != zero {
			t.Errorf("%d seconds: %v, %v", seconds, at, err)
		}
	}
}
