package main

import (
	"slices"
	"testing"
)

func TestNameBeforeKubectlIsNotKubectls(t *testing.T) {
	for _, tt := range []struct {
		args, wantArgs []string
		wantName       string
	}{
		{[]string{"get", "nodes", "--name", "x"}, []string{"get", "nodes", "--name", "x"}, "default"},
		{[]string{"--name", "other", "get", "nodes"}, []string{"get", "nodes"}, "other"},
		{[]string{"--name=other", "get", "nodes"}, []string{"get", "nodes"}, "other"},
		{nil, nil, "default"},
	} {
		name, args := cutName("default", tt.args)
		if name != tt.wantName || !slices.Equal(args, tt.wantArgs) {
			t.Errorf("%q: %q, %q; want %q, %q", tt.args, name, args, tt.wantName, tt.wantArgs)
		}
	}
}
