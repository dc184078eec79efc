package main

import (
	"fmt"
	"slices"
	"strings"
)

// kind is a kind of volumes, with a file in drivers. Focus and skip are expressions for the names
// of specs.
type kind struct {
	name, focus, skip string
}

// rawBlock is in the name of each spec about raw block volumes.
const rawBlock = `\(block volmode\)`

// all lists every kind. What is raw block in the files of directories and images runs once, as a
// kind of its own. Group snapshots are one too: their volumes must be on one node.
func all() []kind {
	return []kind{
		{name: "directories", skip: rawBlock},
		{name: "images", skip: rawBlock},
		{name: "block", focus: rawBlock},
		{name: "groups", focus: "volumegroupsnapshot"},
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
