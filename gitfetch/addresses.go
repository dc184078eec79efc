package main

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"github.com/csi-hostpath/csi-hostpath/pkg/gitwire"
)

// addresses decides to which addresses the fetcher connects. The address counts, not the name: a
// name of the attacker may lead anywhere, and elsewhere the next time.
type addresses struct {
	// allowed is what the operator's rule names.
	allowed networks
	// refused are addresses of the node, of the pod and of the API server.
	refused networks
}

// control is called with the address before a socket connects to it.
func (a addresses) control(_ context.Context, _, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	return a.check(at.Addr())
}

// resolve returns the first address of a name that may be dialled.
func (a addresses) resolve(ctx context.Context, host string) (netip.Addr, error) {
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", strings.Trim(host, "[]"))
	if err != nil {
		return netip.Addr{}, fault(gitwire.Unreachable, "%v", err)
	}
	refused := fault(gitwire.Unreachable, "%s has no address", host)
	for _, address := range found {
		if refused = a.check(address); refused == nil {
			return address.Unmap(), nil
		}
	}
	return netip.Addr{}, refused
}

// check refuses what belongs to the node or to the cluster's own control: the node's services on
// loopback, the cloud's metadata, the API server.
func (a addresses) check(address netip.Addr) error {
	address = address.Unmap().WithZone("")
	if a.allowed.contains(address) {
		return nil
	}
	why := a.reason(address)
	if why == "" {
		// An address of IPv6 may be a gateway's way to one of IPv4.
		inner, ok := embedded(address)
		if !ok || a.allowed.contains(inner) {
			return nil
		}
		if why = a.reason(inner); why == "" {
			return nil
		}
		why = "a way to " + inner.String() + ", which is " + why
	}
	return fault(gitwire.Refused, "the server's address %s is %s: a rule of gitSources must name it "+
		"in addresses", address, why)
}

// metadata are the addresses of clouds' metadata services that are not link-local: of AWS by IPv6,
// Alibaba, Oracle, and Azure's WireServer, which gives out the secrets of a machine's start.
var metadata = []netip.Addr{
	netip.MustParseAddr("168.63.129.16"),
	netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("100.100.100.200"),
	netip.MustParseAddr("192.0.0.192"),
}

// reason is empty if nothing is against the address.
func (a addresses) reason(address netip.Addr) string {
	switch {
	case address.IsLoopback():
		return "loopback"
	case address.IsLinkLocalUnicast(), address.IsMulticast():
		return "link-local or multicast"
	case address.IsUnspecified(), address == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "no server's"
	case slices.Contains(metadata, address):
		return "a cloud's metadata service"
	case a.refused.contains(address):
		return "the node's or the API server's"
	default:
		return ""
	}
}

// The networks of IPv6 that contain addresses of IPv4, and at which byte: NAT64 (RFC 6052, and RFC
// 8215 with its usual prefix of 96 bits), 6to4 (RFC 3056), IPv4-compatible addresses (RFC 4291),
// IPv4-translated ones (RFC 2765).
var embeddings = []struct {
	network netip.Prefix
	at      int
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12},
	{netip.MustParsePrefix("64:ff9b:1::/48"), 12},
	{netip.MustParsePrefix("2002::/16"), 2},
	{netip.MustParsePrefix("::/96"), 12},
	{netip.MustParsePrefix("::ffff:0:0:0/96"), 12},
}

// embedded is the address of IPv4 that one of IPv6 leads to.
func embedded(address netip.Addr) (netip.Addr, bool) {
	if !address.Is6() {
		return netip.Addr{}, false
	}
	bytes := address.As16()
	for _, e := range embeddings {
		if e.network.Contains(address) {
			return netip.AddrFrom4([4]byte(bytes[e.at : e.at+4])), true
		}
	}
	return netip.Addr{}, false
}

// networks is a flag: addresses and networks, with commas.
type networks []netip.Prefix

func (n *networks) contains(address netip.Addr) bool {
	for _, network := range *n {
		if network.Contains(address) {
			return true
		}
	}
	return false
}

func (n *networks) String() string {
	texts := make([]string, 0, len(*n))
	for _, network := range *n {
		texts = append(texts, network.String())
	}
	return strings.Join(texts, ",")
}

// Set is called for each flag.
func (n *networks) Set(text string) error {
	for part := range strings.SplitSeq(text, ",") {
		if part == "" {
			continue
		}
		network, err := netip.ParsePrefix(part)
		if err != nil {
			address, err := netip.ParseAddr(part)
			if err != nil {
				return err
			}
			address = address.Unmap().WithZone("")
			network = netip.PrefixFrom(address, address.BitLen())
		}
		*n = append(*n, network)
	}
	return nil
}
