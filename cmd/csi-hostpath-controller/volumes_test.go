package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/lifecycle"
)

func TestPageListsOrphansAndVolumesOfDeletedNodes(t *testing.T) {
	at := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	orphans := []lifecycle.Orphan{
		{Dir: "pvc-1", Pool: "fast", Node: "a", Since: at}, {Dir: "pvc-2", Node: "b", Since: at},
	}
	gone := []lifecycle.GoneVolume{
		{Name: "pvc-3", Node: "c", Since: at, Claimed: true}, {Name: "pvc-4", Node: "d"},
	}
	const want = "volumes without a PersistentVolume: 2\n" +
		"node a: pool fast: pvc-1, seen since 2026-11-28T12:00:00Z (1m0s)\n" +
		"node b: pool (unknown): pvc-2, seen since 2026-11-28T12:00:00Z (1m0s)\n" +
		"PersistentVolumes of deleted nodes: 2\n" +
		"node c, gone since 2026-11-28T12:00:00Z (1m0s): pvc-3, its claim exists\n" +
		"node d: pvc-4, its claim is gone\n"
	if got := describeVolumes(orphans, gone, at.Add(time.Minute)); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	many := describeVolumes(slices.Repeat(orphans, maxListed), nil, at)
	if n := strings.Count(many, "\n"); n > maxListed+5 || !strings.Contains(many, "only the first 1000") {
		t.Errorf("%d lines", n)
	}
}

func TestOnlyTheLeaderListsVolumes(t *testing.T) {
	l := &leadership{}
	p := pages{volumes: l.volumes}
	if _, text := get(t, p, "/volumesz"); !strings.Contains(text, "not the leader") {
		t.Errorf("%q", text)
	}
	l.leading.Store(&lifecycle.Controller{})
	if _, text := get(t, p, "/volumesz"); !strings.Contains(text, "of deleted nodes: 0\n") {
		t.Errorf("%q", text)
	}
}
