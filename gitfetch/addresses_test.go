package main

import (
	"net/netip"
	"testing"
)

func TestAddresses(t *testing.T) {
	var refused networks
	if err := refused.Set("10.96.0.1,192.0.2.7,2001:db8::7,::ffff:192.0.2.9"); err != nil {
		t.Fatal(err)
	}
	a := addresses{refused: refused, allowed: []netip.Prefix{netip.MustParsePrefix("127.1.0.0/16")}}
	for _, tt := range []struct {
		address string
		ok      bool
	}{
		{"198.51.100.1", true},
		{"2001:db8::1", true},
		{"10.0.0.1", true}, // a cluster's or a company's own server
		{"127.0.0.1", false},
		{"127.1.0.1", true},
		{"::1", false},
		{"0.0.0.0", false},
		{"::", false},
		{"255.255.255.255", false},
		{"169.254.169.254", false},
		{"fe80::1", false},
		{"fe80::1%eth0", false},
		{"224.0.0.1", false},
		{"ff02::1", false},
		{"fd00:ec2::254", false},
		{"100.100.100.200", false},
		{"10.96.0.1", false},
		{"192.0.2.7", false},
		{"192.0.2.9", false},
		{"2001:db8::7", false},
		{"::ffff:127.0.0.1", false},
		{"::ffff:169.254.169.254", false},
		{"::ffff:198.51.100.1", true},
		{"64:ff9b::a9fe:a9fe", false},
		{"64:ff9b::a60:1", false},
		{"64:ff9b::c633:6401", true},
		{"64:ff9b:1::7f00:1", false},
		{"64:ff9b::7f01:1", true}, // 127.1.0.1
		{"2002:7f00:1::", false},
		{"2002:c633:6401::", true},
		{"::127.0.0.1", false},
		{"::ffff:0:127.0.0.1", false},
		{"168.63.129.16", false},
	} {
		if err := a.check(netip.MustParseAddr(tt.address)); (err == nil) != tt.ok {
			t.Errorf("%s: %v, want allowed: %v", tt.address, err, tt.ok)
		}
	}
	for _, bad := range []string{"node", "10.0.0.0/33", "$(NODE)"} {
		if err := new(networks).Set(bad); err == nil {
			t.Errorf("%q is an address", bad)
		}
	}
}
