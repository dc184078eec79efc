package network

import (
	"net"
	"testing"
)

func TestAddressesDoNotOverlap(t *testing.T) {
	_, services, err := net.ParseCIDR(ServiceRange)
	if err != nil {
		t.Fatal(err)
	}
	_, pods, err := net.ParseCIDR(PodRange)
	if err != nil {
		t.Fatal(err)
	}
	if !services.Contains(APIServerIP) {
		t.Errorf("the API server's %s is not a service address", APIServerIP)
	}
	for index := 1; index <= MaxNodes; index++ {
		subnet, _, err := net.ParseCIDR(PodSubnet(index))
		if err != nil || !pods.Contains(subnet) {
			t.Errorf("pods of node %d have %s, %v, outside %s", index, PodSubnet(index), err, PodRange)
		}
		if ip := NodeIP(index); ip.Equal(ControlPlaneIP) || pods.Contains(ip) || services.Contains(ip) {
			t.Errorf("node %d has %s, which is somebody else's", index, ip)
		}
	}
}
