// Package network joins the network namespaces of a cluster's machines. The
// control plane's namespace is the switch: a bridge with one veth pair a node.
// Nothing of it exists in the host's namespace, and all of it goes with the
// machines' processes.
package network

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"strings"
)

// Addresses that the whole cluster knows. Node N has 10.97.0.N and its pods
// 10.244.N.0/24, so a cluster has at most MaxNodes nodes.
const (
	ServiceRange = "10.96.0.0/16"
	PodRange     = "10.244.0.0/16"
	MaxNodes     = 99
	// Domain is what the names of services end in.
	Domain = "cluster.local"
)

// APIServerIP is the address of the service "kubernetes", DNSIP that of the
// service "kube-dns", and ControlPlaneIP that of the control plane on the nodes'
// network.
var (
	APIServerIP    = net.IPv4(10, 96, 0, 1)
	DNSIP          = net.IPv4(10, 96, 0, 10)
	ControlPlaneIP = net.IPv4(10, 97, 0, 254)
)

// NodeIP returns the address of a node; index is 1 to MaxNodes.
func NodeIP(index int) net.IP {
	return net.IPv4(10, 97, 0, byte(index)) //nolint:gosec // G115: MaxNodes fits a byte
}

// PodSubnet returns the addresses of a node's pods.
func PodSubnet(index int) string { return fmt.Sprintf("10.244.%d.0/24", index) }

// ConnectControlPlane sets up the namespace of the control plane, whose PID 1
// the host knows as pid. Its own copy of the service address lets nodes without
// a running kube-proxy reach the API server.
func ConnectControlPlane(ctx context.Context, pid int) error {
	return configure(ctx, pid,
		"link set lo up",
		fmt.Sprintf("address add %s/32 dev lo", APIServerIP),
		"link add nodes type bridge",
		fmt.Sprintf("address add %s/24 dev nodes", ControlPlaneIP),
		"link set nodes up",
	)
}

// ConnectNode joins the namespace of a node to the control plane's.
func ConnectNode(ctx context.Context, controlPlanePID, pid, index int) error {
	link := "node" + strconv.Itoa(index)
	// The kernel takes a dead namespace apart in its own time: the link of the
	// node's last boot may still be there.
	_ = ip(ctx, controlPlanePID, "link delete "+link)
	err := configure(ctx, controlPlanePID,
		fmt.Sprintf("link add %s type veth peer name eth0 netns %d", link, pid),
		fmt.Sprintf("link set %s master nodes up", link),
		fmt.Sprintf("route replace %s via %s", PodSubnet(index), NodeIP(index)),
	)
	if err != nil {
		return err
	}
	return configure(ctx, pid,
		"link set lo up",
		fmt.Sprintf("address add %s/24 dev eth0", NodeIP(index)),
		"link set eth0 up",
		fmt.Sprintf("route add default via %s", ControlPlaneIP),
	)
}

// SetNodeLink plugs or pulls the network cable of a node.
func SetNodeLink(ctx context.Context, controlPlanePID, index int, state string) error {
	commands := []string{fmt.Sprintf("link set node%d %s", index, state)}
	if state == "up" {
		// The kernel drops the routes of a link that goes down.
		commands = append(commands,
			fmt.Sprintf("route replace %s via %s", PodSubnet(index), NodeIP(index)))
	}
	return ip(ctx, controlPlanePID, commands...)
}

func configure(ctx context.Context, pid int, commands ...string) error {
	forward := enter(ctx, pid, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
	if output, err := forward.CombinedOutput(); err != nil {
		return fmt.Errorf("let the namespace of process %d forward: %w: %s", pid, err, output)
	}
	return ip(ctx, pid, commands...)
}

func ip(ctx context.Context, pid int, commands ...string) error {
	cmd := enter(ctx, pid, "ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("set up the network of process %d: %w: %s", pid, err,
			strings.TrimSpace(string(output)))
	}
	return nil
}

func enter(ctx context.Context, pid int, args ...string) *exec.Cmd {
	namespace := fmt.Sprintf("--net=/proc/%d/ns/net", pid)
	return exec.CommandContext(ctx, "nsenter", append([]string{namespace, "--"}, args...)...)
}
