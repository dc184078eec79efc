// Package suite runs Kubernetes' own tests of storage drivers on a cluster that has the driver, and
// judges their reports.
package suite

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Kind is a kind of volumes.
type Kind struct {
	// Name is for people, and for the folder of the report.
	Name string
	// file in drivers says what the driver can do, if that is not the one with the kind's name.
	file string
	// filesystem takes the place of FILESYSTEM in the file.
	filesystem string
	// focus and skip are expressions for the names of specs.
	focus, skip string
	// growsExt4 says that an ext4 grows in the specs of growth.
	growsExt4 bool
	// short are the names of the specs of a short run.
	short []string
}

const (
	// rawBlock is in the name of each spec about raw block volumes.
	rawBlock = `\(block volmode\)`
	// growth is for the specs in which the default filesystem grows.
	growth = `\(default fs\).*(volume-expand|expansion of pvcs|correct filesystem size)`

	// Patterns of volumes in the names of specs.
	dynamic    = "[Testpattern: Dynamic PV (default fs)] "
	expansion  = "[Testpattern: Dynamic PV (default fs)(allowExpansion)] "
	block      = "[Testpattern: Dynamic PV (block volmode)] "
	blockGrows = "[Testpattern: Dynamic PV (block volmode)(allowExpansion)] "
	inline     = "[Testpattern: CSI Ephemeral-volume (default fs)] "
	generic    = "[Testpattern: Generic Ephemeral-volume (default fs) (late-binding)] "
	snapshots  = " [Feature:VolumeSnapshotDataSource]"
)

// Kinds lists every kind. What is raw block in the files of directories and images runs once, as a
// kind of its own. Group snapshots and immediate binding are kinds too, with a class of their own.
func Kinds() []Kind {
	return []Kind{
		directories("btrfs"),
		directories("xfs"),
		directories("ext4",
			dynamic+"volumes should store data",
			dynamic+"provisioning should provision storage with snapshot data source"+snapshots,
			dynamic+"fsgroupchangepolicy (Always)[LinuxOnly], pod created with an initial fsgroup, "+
				"new pod fsgroup applied to volume contents",
			dynamic+"subPath should support file as subpath [LinuxOnly]",
			expansion+"volume-expand should resize volume when PVC is edited while pod is using it",
			inline+"ephemeral should create read/write inline ephemeral volume"),
		{Name: "images", skip: rawBlock, growsExt4: true, short: []string{
			dynamic + "provisioning should provision storage with pvc data source",
			dynamic + "volumes should allow exec of files on the volume",
			generic + "ephemeral should create read/write inline ephemeral volume",
		}},
		{Name: "images-xfs", focus: growth, skip: rawBlock, short: []string{
			expansion + "volume-expand should resize volume when PVC is edited while pod is using it",
		}},
		{Name: "block", focus: rawBlock, short: []string{
			block + "volumes should store data",
			block + "provisioning should provision storage with snapshot data source" + snapshots,
			blockGrows + "volume-expand should resize volume when PVC is edited while pod is using it",
		}},
		{Name: "groups", focus: "volumegroupsnapshot"},
		{Name: "immediate", focus: "volume-modify-stress"},
	}
}

// directories are those of the pools of one filesystem, so of one node.
func directories(filesystem string, short ...string) Kind {
	return Kind{
		Name: "directories-" + filesystem, file: "directories", filesystem: filesystem, skip: rawBlock,
		short: short,
	}
}

// Names lists those of the kinds.
func Names() []string {
	var names []string
	for _, k := range Kinds() {
		names = append(names, k.Name)
	}
	return names
}

// Choose returns the kinds of a list that is separated by commas.
func Choose(list string) ([]Kind, error) {
	var chosen []Kind
	for name := range strings.SplitSeq(list, ",") {
		i := slices.Index(Names(), name)
		if i < 0 {
			return nil, fmt.Errorf("no kind of volumes %q: there are %s", name,
				strings.Join(Names(), ", "))
		}
		chosen = append(chosen, Kinds()[i])
	}
	return chosen, nil
}

// driver is the testdriver file of Kubernetes for the kind. It names nodes as Run.withNodes has it.
func (k Kind) driver() (string, error) {
	data, err := files.ReadFile("drivers/" + cmp.Or(k.file, k.Name) + ".yaml")
	return strings.ReplaceAll(string(data), "FILESYSTEM", k.filesystem), err
}

// withoutGrowth leaves out the specs in which an ext4 grows. They need CAP_SYS_RESOURCE, which root
// has not on every machine.
func (k Kind) withoutGrowth() Kind {
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
