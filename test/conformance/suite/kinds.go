package main

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// kind is a kind of volumes, with a file in drivers. Focus and skip are expressions for the names
// of specs. GrowsExt4 says that an ext4 grows in the specs of growth.
type kind struct {
	name, focus, skip string
	growsExt4         bool
}

const (
	// rawBlock is in the name of each spec about raw block volumes.
	rawBlock = `\(block volmode\)`
	// growth is for the specs in which the default filesystem grows.
	growth = `\(default fs\).*(volume-expand|expansion of pvcs|correct filesystem size)`
)

// all lists every kind. What is raw block in the files of directories and images runs once, as a
// kind of its own. Group snapshots and immediate binding are kinds too, with a class of their own.
func all() []kind {
	return []kind{
		{name: "directories", skip: rawBlock},
		{name: "images", skip: rawBlock, growsExt4: true},
		{name: "images-xfs", focus: growth, skip: rawBlock},
		{name: "block", focus: rawBlock},
		{name: "groups", focus: "volumegroupsnapshot"},
		{name: "immediate", focus: "volume-modify-stress"},
	}
}

func kinds() []string {
	var names []string
	for _, k := range all() {
		names = append(names, k.name)
	}
	return names
}

// choose returns the kinds of a list that is separated by commas.
func choose(list string) ([]kind, error) {
	var chosen []kind
	for name := range strings.SplitSeq(list, ",") {
		i := slices.Index(kinds(), name)
		if i < 0 {
			return nil, fmt.Errorf("no kind of volumes %q: there are %s", name,
				strings.Join(kinds(), ", "))
		}
		chosen = append(chosen, all()[i])
	}
	return chosen, nil
}

// withoutGrowth leaves out the specs in which an ext4 grows. They need CAP_SYS_RESOURCE, which root
// has not on every machine.
func (k kind) withoutGrowth() kind {
	if k.growsExt4 {
		k.skip += "|" + growth
	}
	return k
}

// canGrowExt4 is false where the kernel would refuse it, also to the driver.
func canGrowExt4() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var has [2]unix.CapUserData
	return unix.Capget(&header, &has[0]) == nil &&
		has[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}
