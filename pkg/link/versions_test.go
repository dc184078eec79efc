package link

import (
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/go-logr/logr/funcr"
	"google.golang.org/grpc"
)

// The versions of three releases: each speaks what the one before it spoke, and the third no longer
// what the first did.
var (
	firstRelease  = versions{1, 1}
	secondRelease = versions{1, 2}
	thirdRelease  = versions{2, 3}
)

// speaking are the options of a node of a release.
func (w *world) speaking(v versions, name string) NodeOptions {
	opts := w.options("node-"+name, "token-"+name)
	opts.versions = v
	return opts
}

// restart ends a controller and starts one of another release at its address.
func (w *world) restart(v versions) *world {
	w.t.Helper()
	w.stop()
	var listener net.Listener
	// On loopback a node that dials may have the address itself for a moment.
	w.eventually("the address is free", func() (free bool) {
		var err error
		listener, err = net.Listen("tcp", w.address)
		return err == nil
	})
	next := newControllerAt(w.t, listener, func(s *server) {
		s.tls, s.versions = w.server.tls.Clone(), v
		s.opts.Authenticator = w.tokens
	})
	next.tokens, next.ca = w.tokens, w.ca
	return next
}

// TestNodesAndControllersOfTwoReleasesWorkTogether goes through a rolling upgrade, with the
// controller first and with the nodes first: calls go on with nodes of either release.
func TestNodesAndControllersOfTwoReleasesWorkTogether(t *testing.T) {
	for name, order := range map[string][]string{
		"controller first": {"controller", "a", "b"}, "nodes first": {"a", "b", "controller"},
		"controller between": {"a", "controller", "b"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newController(t, func(s *server) { s.versions = firstRelease })
			w.tokens["token-b"] = "node-b"
			controller := firstRelease
			nodes := map[string]versions{"a": firstRelease, "b": firstRelease}
			servers := map[string]*grpc.Server{}
			start := func(name string) {
				servers[name] = w.start(w.speaking(nodes[name], name), quick(),
					controllerService{node: "node-" + name})
			}
			check := func(step string) {
				for name, node := range nodes {
					want := min(node.highest, controller.highest)
					w.eventually(step+": node "+name+" answers", func() bool {
						l := w.fleet.of("node-" + name)
						if l == nil || l.Version != want {
							return false
						}
						answered, err := call(t.Context(), l)
						return err == nil && answered == "node-"+name
					})
				}
			}
			start("a")
			start("b")
			check("before")
			for _, next := range order {
				if next == "controller" {
					controller = secondRelease
					w = w.restart(controller)
				} else {
					servers[next].Stop()
					nodes[next] = secondRelease
					start(next)
				}
				check("after " + next)
			}
		})
	}
}

// TestNodeThatIsTooOldIsLinkedAsSoonAsItIsUpgraded leaves a release out: the old node is told why,
// and nobody else is disturbed.
func TestNodeThatIsTooOldIsLinkedAsSoonAsItIsUpgraded(t *testing.T) {
	w := newController(t, func(s *server) { s.versions = thirdRelease })
	w.tokens["token-b"] = "node-b"
	var mu sync.Mutex
	var said strings.Builder
	old := w.speaking(firstRelease, "a")
	old.Logger = funcr.New(func(_, line string) {
		mu.Lock()
		defer mu.Unlock()
		said.WriteString(line)
	}, funcr.Options{})
	server := w.start(old, quick(), controllerService{node: "node-a"})
	w.start(w.speaking(secondRelease, "b"), quick(), controllerService{node: "node-b"})
	if l := w.linked("node-b"); l.Version != 2 {
		t.Errorf("the node of the second release speaks version %d", l.Version)
	}
	w.eventually("the old node is told why", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return strings.Contains(said.String(), "no common version of the link: the node (driver 1.2.3) "+
			"speaks 1 to 1, the controller 2 to 3: update the older of the two")
	})
	if l := w.fleet.of("node-a"); l != nil {
		t.Errorf("the old node has a link: %+v", l)
	}
	server.Stop()
	w.start(w.speaking(thirdRelease, "a"), quick(), controllerService{node: "node-a"})
	if l := w.linked("node-a"); l.Version != 3 {
		t.Errorf("the upgraded node speaks version %d", l.Version)
	}
}
